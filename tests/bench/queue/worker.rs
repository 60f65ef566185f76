//! The product's worker side in this process: registration, heartbeats, one apalis worker for each device over the job
//! backend, and a handler that does nothing but report through the fenced settle, as the agent does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use apalis::prelude::{Data, WorkerBuilder, WorkerBuilderExt};
use shared::{
    config::{LeaseTiming, Stores},
    db::{
        self, Pool,
        farm::{self, DeviceRow, Registration},
        jobs::{self, JobLease},
        listen,
        tell::Teller,
    },
    error::chain,
    ids::{Incarnation, JobId},
    job::{
        backend::{ClaimLane, Claimed, JobBackend},
        rules::Report,
    },
    shutdown::Tasks,
};
use tokio::sync::{mpsc, watch};

use crate::measure::Countdown;

/// Name of the one host.
pub(crate) const HOST: &str = "bench";
const TIMING: LeaseTiming = LeaseTiming { ttl: Duration::from_secs(15) };

/// Id of a device of the host.
pub(crate) fn device(number: usize) -> String {
    format!("{HOST}/cpu:{number}")
}

/// A running worker process, but in this one.
pub(crate) struct Worker {
    pool: Pool,
    me: Incarnation,
    tasks: Tasks,
    /// Counts settled jobs.
    pub done: Arc<Countdown>,
    /// Handler starts, if asked for.
    pub started: mpsc::Receiver<(JobId, Instant)>,
}

#[derive(Clone)]
struct Work {
    pool: Pool,
    me: Incarnation,
    running: Running,
    teller: Teller,
    done: Arc<Countdown>,
    starts: Option<mpsc::Sender<(JobId, Instant)>>,
}

/// What heartbeats name.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<Vec<(JobId, i64)>>>);

impl Running {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<(JobId, i64)>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Worker {
    /// Registers the host with so many devices of one slot each and starts claiming. The pool has the product's default size.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn start(stores: &Stores, devices: usize, report_starts: bool) -> anyhow::Result<Self> {
        let pool = db::pool(stores, "bench-worker")?;
        let (me, tasks) = (Incarnation::generate(), Tasks::new());
        let mut tx = pool.begin().await?;
        farm::register(&mut tx, &registration(me, devices), TIMING.ttl).await?;
        tx.commit().await?;
        let hints = listen::Hints::start(stores, &[listen::PLACED, listen::CANCEL], &tasks);
        let (starts, started) = mpsc::channel(16);
        let done = Arc::new(Countdown::new(0));
        let starts = report_starts.then_some(starts);
        let teller = Teller::start(pool.clone(), &tasks);
        let work = Work { pool: pool.clone(), me, running: Running::default(), teller, done: done.clone(), starts };
        spawn_heartbeats(stores.clone(), me, work.running.clone(), &tasks);
        for number in 0..devices {
            spawn_worker(&work, &hints, number, &tasks);
        }
        Ok(Self { pool, me, tasks, done, started })
    }

    /// Stops claiming and gives the lease up.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.tasks.stop_and_wait(Duration::from_secs(5)).await;
        farm::release_lease(&self.pool, self.me).await?;
        self.pool.close().await;
        Ok(())
    }
}

fn registration(me: Incarnation, devices: usize) -> Registration {
    let row = |number| DeviceRow {
        id: device(number),
        host: HOST.to_owned(),
        name: format!("cpu:{number}"),
        kind: "cpu".to_owned(),
        uuid: None,
        product: "bench".to_owned(),
        memory_total_bytes: 1 << 30,
        memory_used_bytes: 0,
        slots: 1,
        labels: Vec::new(),
        state: "ready".to_owned(),
        reason: None,
        runner_generation: 0,
    };
    Registration {
        host: HOST.to_owned(),
        incarnation: me,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: Vec::new(),
        slots: 2,
        ram_budget_bytes: 1 << 30,
        capabilities: serde_json::json!({}),
        devices: (0..devices).map(row).collect(),
        roots: Vec::new(),
    }
}

fn spawn_heartbeats(stores: Stores, me: Incarnation, running: Running, tasks: &Tasks) {
    let beats = async move {
        let mut db = db::dedicated(&stores, "bench-lease").await?;
        loop {
            tokio::time::sleep(TIMING.heartbeat()).await;
            let leases = running.with(|leases| leases.clone());
            farm::heartbeat(&mut db, HOST, me, &leases, TIMING.ttl, TIMING.heartbeat()).await?;
        }
    };
    let token = tasks.token().clone();
    tasks.spawn("heartbeat", async move {
        let ended: Option<Result<(), db::DbError>> = token.run_until_cancelled(beats).await;
        if let Some(Err(error)) = ended {
            tracing::error!(error = %chain(&error), "heartbeats ended");
        }
    });
}

fn spawn_worker(work: &Work, hints: &listen::Hints, number: usize, tasks: &Tasks) {
    let lane = ClaimLane::Device { host: HOST.to_owned(), device: device(number) };
    let running = work.running.clone();
    let teller = work.teller.clone();
    // the lease is renewed beside the bench and never lapses: every claim counts
    let on_claim = Arc::new(move |claimed: &Claimed, _: Instant| {
        running.with(|leases| leases.push((claimed.id, claimed.fence)));
        teller.tell(listen::JOB, claimed.id.to_string());
        true
    });
    let (admission, open) = watch::channel(true);
    let backend = JobBackend::new(work.pool.clone(), lane, work.me, hints, open, on_claim);
    let worker = WorkerBuilder::new(format!("{}#{}", device(number), work.me))
        .backend(backend)
        .data(work.clone())
        .concurrency(1)
        .build(handle);
    let token = tasks.token().clone();
    tasks.spawn("worker", async move {
        let stopped = async move {
            token.cancelled().await;
            Ok::<(), std::io::Error>(())
        };
        if let Err(error) = worker.run_until(stopped).await {
            tracing::error!(%error, "a worker ended");
        }
        drop(admission);
    });
}

async fn handle(claimed: Claimed, work: Data<Work>) {
    if let Some(starts) = &work.starts {
        // full only if nobody measures
        let _ = starts.try_send((claimed.id, Instant::now()));
    }
    let lease = JobLease { id: claimed.id, fence: claimed.fence, incarnation: work.me };
    let report = Report::Succeeded { result: serde_json::json!({}) };
    match jobs::report(&work.pool, &work.teller, lease, &report, 0.0).await {
        Ok(jobs::Settlement::Applied(_)) => work.done.tick(),
        Ok(jobs::Settlement::Stale) => tracing::error!(job.id = %claimed.id, "a no-op job lost its lease"),
        Err(error) => tracing::error!(job.id = %claimed.id, error = %chain(&error), "a no-op job was not committed"),
    }
    work.running.with(|leases| leases.retain(|lease| *lease != (claimed.id, claimed.fence)));
}
