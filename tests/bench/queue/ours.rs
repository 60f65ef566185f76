//! The product, end to end: enqueue through the shared crate, the real scheduler process, apalis workers over the job backend.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use shared::{
    config::Stores,
    db::{self, Pool},
    ids::ModelId,
    job::{self, JobSpec, NewJob, Target, UnloadArgs},
    ready::Ready,
};
use tokio::process::{Child, Command};

use crate::{
    history,
    measure::between_samples,
    worker::{Worker, device},
};

/// How long a process may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// A migrated database and the scheduler's program.
#[derive(Debug)]
pub(crate) struct Ours {
    stores: Stores,
    pool: Pool,
    scheduler: PathBuf,
    ready_file: PathBuf,
}

/// Scheduler and worker of one pass.
struct Farm {
    scheduler: Child,
    worker: Worker,
}

impl Ours {
    /// Migrates. The scheduler is the program beside this one.
    ///
    /// # Errors
    /// No scheduler, or database errors.
    pub(crate) async fn create(url: String, dir: &Path) -> anyhow::Result<Self> {
        let scheduler = std::env::current_exe()?.with_file_name("modelyard-scheduler");
        anyhow::ensure!(scheduler.is_file(), "{} is not there: build it with the same profile", scheduler.display());
        // the number of connections that every daemon has by default
        let stores = Stores { database_url: url, redis_url: None, database_connections: 10 };
        let pool = db::pool(&stores, "bench")?;
        db::migrate(&pool).await?;
        Ok(Self { stores, pool, scheduler, ready_file: dir.join("scheduler-ready.json") })
    }

    /// Gives its connections back.
    pub(crate) async fn close(self) {
        self.pool.close().await;
    }

    /// Finished jobs of ten days, as the product holds them.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn add_history(&self, jobs: i64) -> anyhow::Result<()> {
        history::add(&self.pool, jobs).await
    }

    /// Forgets all jobs.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        history::clear(&self.pool).await
    }

    /// Seconds from the commit of `jobs` jobs to the end of the last one; `concurrency` is the number of devices.
    ///
    /// # Errors
    /// When a process does not start, and database errors.
    pub(crate) async fn drain(&self, jobs: usize, concurrency: usize) -> anyhow::Result<f64> {
        let farm = self.start(concurrency, false).await?;
        self.enqueue(&farm, concurrency * 20, concurrency).await?;
        farm.worker.done.wait().await?;
        let began = self.enqueue(&farm, jobs, concurrency).await?;
        farm.worker.done.wait().await?;
        let took = began.elapsed().as_secs_f64();
        farm.stop().await?;
        Ok(took)
    }

    /// Milliseconds from the enqueue call to the start of the handler, one job at a time on an idle farm.
    ///
    /// # Errors
    /// When a process does not start, and database errors.
    pub(crate) async fn latency(&self, samples: usize) -> anyhow::Result<Vec<f64>> {
        let mut farm = self.start(1, true).await?;
        let mut waited = Vec::with_capacity(samples);
        for number in 0..=samples {
            let called = Instant::now();
            self.enqueue(&farm, 1, 1).await?;
            let started = tokio::time::timeout(PATIENCE, farm.worker.started.recv()).await?;
            let (_, started) = started.context("the worker ended")?;
            farm.worker.done.wait().await?;
            // the first one also waits for the scheduler to become the leader
            if number > 0 {
                waited.push(started.saturating_duration_since(called).as_secs_f64() * 1e3);
            }
            between_samples(number).await;
        }
        farm.stop().await?;
        Ok(waited)
    }

    /// Enqueues in one transaction, spread over the devices; answers the moment of the commit.
    async fn enqueue(&self, farm: &Farm, jobs: usize, devices: usize) -> anyhow::Result<Instant> {
        farm.worker.done.expect(jobs);
        let mut tx = self.pool.begin().await?;
        for number in 0..jobs {
            let args = UnloadArgs {
                model: ModelId::generate(),
                components: None,
                from_ram: false,
                force: false,
                wait_for_jobs: false,
            };
            let target = Target::Device(device(number % devices));
            job::enqueue(&mut tx, NewJob::new(JobSpec::Unload(args), target)).await?;
        }
        tx.commit().await?;
        Ok(Instant::now())
    }

    async fn start(&self, devices: usize, report_starts: bool) -> anyhow::Result<Farm> {
        let scheduler = self.start_scheduler().await?;
        let worker = Worker::start(&self.stores, devices, report_starts).await?;
        Ok(Farm { scheduler, worker })
    }

    async fn start_scheduler(&self) -> anyhow::Result<Child> {
        // absent unless an earlier pass wrote it
        let _ = std::fs::remove_file(&self.ready_file);
        let mut command = Command::new(&self.scheduler);
        command.args(["--scan-every", "0", "--log", "warn", "--ready-file"]).arg(&self.ready_file);
        command.env("DATABASE_URL", &self.stores.database_url).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while Ready::read(&self.ready_file)?.is_none() {
            anyhow::ensure!(child.try_wait()?.is_none(), "the scheduler ended while it started");
            anyhow::ensure!(Instant::now() < deadline, "the scheduler is not ready in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(child)
    }
}

impl Farm {
    async fn stop(mut self) -> anyhow::Result<()> {
        self.worker.stop().await?;
        let pid = self.scheduler.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        rustix::process::kill_process(pid.context("the scheduler ended by itself")?, rustix::process::Signal::TERM)?;
        let status = tokio::time::timeout(PATIENCE, self.scheduler.wait()).await??;
        anyhow::ensure!(status.success(), "the scheduler ended with {status}");
        Ok(())
    }
}
