//! The apalis backend over the fenced `jobs` table: apalis asks for work only when a slot is free, so one poll claims one job.
//!
//! Errors never reach apalis (any backend error stops its worker): a failed claim is logged and tried again. The claim runs in
//! a task of its own and hands over through a slot that the next poll reads, so a claim whose caller went away is not lost:
//! the heartbeat names it as a stray and it is handed back.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{
        Task,
        builder::TaskBuilder,
        task_id::{RandomId, TaskId},
    },
    worker::context::WorkerContext,
};
use sqlx::PgPool;
use tokio::sync::broadcast;
use tower::layer::util::Identity;

use crate::{
    db::{
        DbError, jobs,
        listen::{self, Hint},
    },
    error::chain,
    ids::Incarnation,
};

pub use crate::db::jobs::{ClaimLane, Claimed};

/// How often an idle slot looks without a hint.
const POLL: Duration = Duration::from_secs(1);

type ClaimFuture = Pin<Box<dyn Future<Output = Claimed> + Send>>;

/// Claims the jobs of one lane for one process.
pub struct JobBackend {
    source: Source,
    pending: Option<ClaimFuture>,
    admission: Admission,
}

/// Says whether this process may claim now (its lease is good and it is not draining).
pub type Admission = tokio::sync::watch::Receiver<bool>;

/// Called with every claim and the moment at which it was asked for, before it is handed on, so that heartbeats name it
/// from the first moment. False refuses it: the lease lapsed since it was asked for, and somebody else may have the job
/// by now. A refused claim is a stray to the next heartbeat, which hands it back if it is still ours.
pub type OnClaim = std::sync::Arc<dyn Fn(&Claimed, Instant) -> bool + Send + Sync>;

#[derive(Clone)]
struct Source {
    pool: PgPool,
    lane: ClaimLane,
    me: Incarnation,
    hints: listen::Hints,
    on_claim: OnClaim,
}

impl std::fmt::Debug for JobBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobBackend")
            .field("lane", &self.source.lane)
            .field("me", &self.source.me)
            .finish_non_exhaustive()
    }
}

impl JobBackend {
    /// A backend for one lane.
    pub fn new(
        pool: PgPool,
        lane: ClaimLane,
        me: Incarnation,
        hints: &listen::Hints,
        admission: Admission,
        on_claim: OnClaim,
    ) -> Self {
        Self { source: Source { pool, lane, me, hints: hints.clone(), on_claim }, pending: None, admission }
    }
}

impl Source {
    fn host(&self) -> &str {
        match &self.lane {
            ClaimLane::Device { host, .. } | ClaimLane::Host { host } => host,
        }
    }

    /// Waits until a job is claimed. Subscribes before looking, so that no hint falls between.
    async fn next(self, mut admission: Admission) -> Claimed {
        let mut hints = self.hints.subscribe();
        loop {
            if admission.wait_for(|open| *open).await.is_err() {
                // the process is going away; it never claims again
                std::future::pending::<()>().await;
            }
            let asked = Instant::now();
            match jobs::claim(&self.pool, &self.lane, self.me).await {
                Ok(Some(claimed)) if (self.on_claim)(&claimed, asked) => return claimed,
                Ok(Some(claimed)) => {
                    tracing::warn!(job.id = %claimed.id, "a claim came after the lease had lapsed; it is not run");
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(error = %chain(&error), "a claim failed; trying again"),
            }
            let _ = tokio::time::timeout(POLL, self.hinted(&mut hints)).await;
        }
    }

    async fn hinted(&self, hints: &mut broadcast::Receiver<Hint>) {
        loop {
            match hints.recv().await {
                Ok(hint) if hint.channel.is_empty() => return,
                Ok(hint) if hint.channel == listen::PLACED && hint.payload == self.host() => return,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
            }
        }
    }
}

impl Backend for JobBackend {
    type Task = Task<Claimed>;
    type Error = DbError;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), DbError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, DbError>>> {
        let future = self.pending.get_or_insert_with(|| Box::pin(self.source.clone().next(self.admission.clone())));
        let claimed = std::task::ready!(future.as_mut().poll(cx));
        self.pending = None;
        let id = TaskId::from_string(claimed.id.to_string());
        Poll::Ready(Some(Ok(TaskBuilder::new(claimed).task_id(id).build())))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), DbError>> {
        // a claim in flight is dropped here; if it had committed, the heartbeat reports it as a stray
        self.pending = None;
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for JobBackend {
    type Args = Claimed;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
