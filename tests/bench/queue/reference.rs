//! The yardstick: the queue that one writes by hand in an afternoon. One table, SKIP LOCKED claims of one job a trip,
//! one NOTIFY at the enqueue, a fenced update at the end, a connection for each worker, no scheduler, no history of events.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shared::shutdown::Tasks;
use sqlx::{Connection, Executor, PgConnection, postgres::PgListener};
use tokio::sync::{mpsc, watch};

use crate::measure::{Countdown, between_samples};

const SCHEMA: &str = "
    create table job (
        id bigint generated always as identity primary key,
        payload jsonb not null,
        state text not null default 'pending',
        priority integer not null default 0,
        run_at timestamptz not null default now(),
        attempt integer not null default 0,
        fence bigint not null default 0,
        worker text,
        created_at timestamptz not null default now(),
        started_at timestamptz,
        finished_at timestamptz
    ) with (fillfactor = 70);
    create index job_pending on job (priority desc, run_at, id) where state = 'pending';";

const CLAIM: &str = "
    update job set state = 'running', worker = $1, fence = fence + 1, attempt = attempt + 1, started_at = now()
    where id = (select id from job where state = 'pending' and run_at <= now()
                order by priority desc, run_at, id limit 1 for update skip locked)
    returning id, fence, payload";

const FINISH: &str = "
    update job set state = 'succeeded', worker = null, finished_at = now()
    where id = $1 and fence = $2 and worker = $3 and state = 'running'";

const ENQUEUE: &str = "
    with added as (insert into job (payload) select '{\"noop\": true}' from generate_series(1, $1) returning id)
    select max(id), pg_notify('job', '')::text from added";

const HISTORY: &str = "
    insert into job (payload, state, attempt, fence, created_at, run_at, started_at, finished_at)
    select '{\"noop\": true}', 'succeeded', 1, 1, at - interval '2 s', at - interval '2 s', at - interval '1 s', at
    from (select now() - (n::float8 / $1) * interval '10 days' as at from generate_series(1, $1::bigint) n) finished";

/// Where a waiting worker looks without a hint.
const POLL: Duration = Duration::from_secs(1);

/// The hand-written queue.
#[derive(Debug)]
pub(crate) struct Reference {
    url: String,
}

/// Its workers in this process.
struct Workers {
    tasks: Tasks,
    done: Arc<Countdown>,
    started: mpsc::Receiver<(i64, Instant)>,
}

impl Reference {
    /// Makes the table.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn create(url: String) -> anyhow::Result<Self> {
        PgConnection::connect(&url).await?.execute(SCHEMA).await?;
        Ok(Self { url })
    }

    /// Finished jobs of ten days; they stay in the table, as they do in hand-written queues.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn add_history(&self, jobs: i64) -> anyhow::Result<()> {
        let mut db = PgConnection::connect(&self.url).await?;
        sqlx::query(HISTORY).bind(jobs).execute(&mut db).await?;
        db.execute("vacuum (analyze) job").await?;
        Ok(())
    }

    /// Forgets all jobs.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        PgConnection::connect(&self.url).await?.execute("truncate job").await?;
        Ok(())
    }

    /// Seconds from the commit of `jobs` jobs to the end of the last one.
    ///
    /// # Errors
    /// Database errors, or jobs that never end.
    pub(crate) async fn drain(&self, jobs: usize, concurrency: usize) -> anyhow::Result<f64> {
        let workers = self.start(concurrency, false).await?;
        let mut db = PgConnection::connect(&self.url).await?;
        workers.warm_up(&mut db, concurrency * 20).await?;
        workers.done.expect(jobs);
        let mut tx = db.begin().await?;
        enqueue(&mut tx, jobs).await?;
        tx.commit().await?;
        let began = Instant::now();
        workers.done.wait().await?;
        let took = began.elapsed().as_secs_f64();
        workers.stop().await;
        Ok(took)
    }

    /// Milliseconds from the enqueue call to the start of the handler, one job at a time.
    ///
    /// # Errors
    /// Database errors, or jobs that never start.
    pub(crate) async fn latency(&self, samples: usize) -> anyhow::Result<Vec<f64>> {
        let mut workers = self.start(1, true).await?;
        let mut db = PgConnection::connect(&self.url).await?;
        workers.warm_up(&mut db, 1).await?;
        workers.started.recv().await;
        let mut waited = Vec::with_capacity(samples);
        for number in 0..samples {
            workers.done.expect(1);
            let began = Instant::now();
            enqueue(&mut db, 1).await?;
            workers.done.wait().await?;
            if let Some((_, started)) = workers.started.recv().await {
                waited.push(started.saturating_duration_since(began).as_secs_f64() * 1e3);
            }
            between_samples(number).await;
        }
        workers.stop().await;
        Ok(waited)
    }

    async fn start(&self, concurrency: usize, report: bool) -> anyhow::Result<Workers> {
        let tasks = Tasks::new();
        let done = Arc::new(Countdown::new(0));
        let (starts, started) = mpsc::channel(16);
        let (hints, hinted) = watch::channel(());
        let mut listener = PgListener::connect(&self.url).await?;
        listener.listen("job").await?;
        let token = tasks.token().clone();
        tasks.spawn("listen", async move {
            let _ = token
                .run_until_cancelled(async {
                    while listener.recv().await.is_ok() {
                        hints.send_replace(());
                    }
                })
                .await;
        });
        for number in 0..concurrency {
            let worker = Worker {
                db: PgConnection::connect(&self.url).await?,
                name: format!("worker-{number}"),
                hinted: hinted.clone(),
                done: done.clone(),
                starts: report.then(|| starts.clone()),
            };
            let token = tasks.token().clone();
            tasks.spawn("worker", async move { token.run_until_cancelled(worker.run()).await });
        }
        Ok(Workers { tasks, done, started })
    }
}

impl Workers {
    /// Every connection has prepared its statements before the clock starts.
    async fn warm_up(&self, db: &mut PgConnection, jobs: usize) -> anyhow::Result<()> {
        self.done.expect(jobs);
        enqueue(db, jobs).await?;
        self.done.wait().await
    }

    async fn stop(self) {
        self.tasks.stop_and_wait(Duration::from_secs(5)).await;
    }
}

async fn enqueue(db: &mut PgConnection, jobs: usize) -> anyhow::Result<()> {
    sqlx::query(ENQUEUE).bind(i64::try_from(jobs)?).execute(db).await?;
    Ok(())
}

struct Worker {
    db: PgConnection,
    name: String,
    hinted: watch::Receiver<()>,
    done: Arc<Countdown>,
    starts: Option<mpsc::Sender<(i64, Instant)>>,
}

impl Worker {
    async fn run(mut self) -> Result<(), sqlx::Error> {
        loop {
            self.hinted.mark_unchanged();
            let claimed: Option<(i64, i64, serde_json::Value)> =
                sqlx::query_as(CLAIM).bind(&self.name).fetch_optional(&mut self.db).await?;
            match claimed {
                Some((id, fence, _)) => self.work(id, fence).await?,
                // a hint or the poll; both mean: look again
                None => drop(tokio::time::timeout(POLL, self.hinted.changed()).await),
            }
        }
    }

    async fn work(&mut self, id: i64, fence: i64) -> Result<(), sqlx::Error> {
        if let Some(starts) = &self.starts {
            // full only if nobody measures
            let _ = starts.try_send((id, Instant::now()));
        }
        let ended = sqlx::query(FINISH).bind(id).bind(fence).bind(&self.name).execute(&mut self.db).await?;
        if ended.rows_affected() == 1 {
            self.done.tick();
        }
        Ok(())
    }
}
