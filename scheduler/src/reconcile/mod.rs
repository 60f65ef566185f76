//! The leader's periodic duties: taking jobs back, firing schedules, applying pipelines again, archiving. They run in an apalis worker over a backend
//! of ticks, one duty at a time; a duty that fails is tried again at its next tick.

mod duties;
mod pipelines;
mod schedule;
mod ticks;

use std::{sync::Arc, time::Duration};

use apalis_core::{task::data::Data, worker::builder::WorkerBuilder};
use shared::{
    db::{Pool, blobs::retention::Retention},
    error::chain,
    shutdown::Tasks,
};

pub(crate) use schedule::ensure_scan;
use ticks::{Duty, Tick, Ticks};

use crate::{config::Config, leader::Leadership, metrics::Metrics};

/// What the duties work with.
#[derive(Debug)]
pub(crate) struct Control {
    /// The database.
    pub(crate) pool: Pool,
    /// Only a leader reaps, fires and archives.
    pub(crate) leadership: Leadership,
    /// Metrics.
    pub(crate) metrics: Metrics,
    /// How long finished jobs stay hot.
    pub(crate) keep_finished: Duration,
    /// How long events of archived jobs, of residency, hosts and devices stay.
    pub(crate) keep_events: Duration,
    /// How long it is remembered what was done with pipelines.
    pub(crate) keep_history: Duration,
    /// Which artifacts stay; uploads say themselves how long.
    pub(crate) keep_blobs: Retention,
}

/// Starts the worker; an apalis worker that ended by itself is started again.
pub(crate) fn start(control: Control, config: &Config, tasks: &Tasks) {
    let control = Arc::new(control);
    let periods = ticks::periods(config.lease.ttl);
    let token = tasks.token().clone();
    tasks.spawn("reconcile", async move {
        let mut restarts = 0u32;
        while !token.is_cancelled() {
            let stop = token.clone();
            let signal = async move {
                stop.cancelled().await;
                Ok::<(), std::io::Error>(())
            };
            let worker = WorkerBuilder::new(format!("reconcile.{restarts}"))
                .backend(Ticks::new(periods))
                .data(Arc::clone(&control))
                .build(run);
            match worker.run_until(signal).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, restarts, "the reconcile worker ended"),
            }
            restarts = restarts.saturating_add(1);
            tokio::select! {
                () = token.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    });
}

async fn run(tick: Tick, control: Data<Arc<Control>>) {
    let done = match tick.duty() {
        Duty::Gauges => duties::gauges(&control).await,
        Duty::Reap => duties::reap(&control).await,
        Duty::Schedules => schedule::fire(&control).await,
        Duty::Pipelines => pipelines::reconcile(&control).await,
        Duty::Archive => duties::archive(&control).await,
        Duty::Stored => duties::stored(&control).await,
        Duty::Sweep => duties::sweep(&control).await,
        Duty::Texts => duties::texts(&control).await,
    };
    if let Err(error) = done {
        tracing::warn!(duty = ?tick.duty(), error = %chain(&error), "a duty failed; it is tried again at its next tick");
    }
}
