//! The execution ledger as the database holds it: what really happened, read past the API.

use serde_json::Value;
use shared::ids::JobId;
use sqlx::{FromRow, PgPool, postgres::PgPoolOptions};

/// One attempt.
#[derive(Debug, Clone, FromRow)]
pub struct Attempt {
    /// Number.
    pub attempt: i32,
    /// Lease epoch.
    pub fence: i64,
    /// Host.
    pub host: String,
    /// Device.
    pub device: Option<String>,
    /// Worker process.
    pub incarnation: String,
    /// How it ended.
    pub outcome: Option<String>,
    /// Seconds since 1970 at which it began, by the database.
    pub began: f64,
    /// Seconds since 1970 at which it ended, by the database.
    pub ended: Option<f64>,
}

/// One event.
#[derive(Debug, Clone, FromRow)]
pub struct Event {
    /// Order.
    pub seq: i64,
    /// Type.
    pub kind: String,
    /// Details.
    pub data: Value,
    /// Seconds since 1970, by the database.
    pub at: f64,
}

/// A view of one farm's database.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: PgPool,
}

impl Ledger {
    /// The database at this URL; connects when it is first asked.
    ///
    /// # Panics
    /// When the URL is none.
    pub fn new(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(3).connect_lazy(url).expect("a database URL");
        Self { pool }
    }

    /// The pool, for a story's own questions.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Attempts of a job, first to last.
    pub async fn attempts(&self, job: JobId) -> Vec<Attempt> {
        sqlx::query_as(
            "select attempt, fence, host, device, incarnation, outcome, extract(epoch from started_at)::float8 as began,
                    extract(epoch from ended_at)::float8 as ended
             from job_attempts where job_id = $1 order by fence",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .expect("the ledger can be read")
    }

    /// Outcomes of a job's attempts, first to last; `open` for one that has not ended.
    pub async fn outcomes(&self, job: JobId) -> Vec<String> {
        let attempts = self.attempts(job).await;
        attempts.into_iter().map(|attempt| attempt.outcome.unwrap_or_else(|| "open".into())).collect()
    }

    /// Events of a job, in order.
    pub async fn events(&self, job: JobId) -> Vec<Event> {
        sqlx::query_as(
            "select seq, type as kind, data, extract(epoch from at)::float8 as at from job_events where job_id = $1 order by seq",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .expect("the ledger can be read")
    }

    /// How many events of this type a job has.
    pub async fn count(&self, job: JobId, kind: &str) -> usize {
        self.events(job).await.iter().filter(|event| event.kind == kind).count()
    }

    /// One number that a statement gives.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    /// Jobs that break a rule of every farm at rest: an ended job with an open attempt, more than one success, an
    /// attempt that ended without a word, a success without exactly one successful attempt.
    pub async fn violations(&self) -> Vec<String> {
        sqlx::query_scalar(
            "select j.id || ' ' || j.kind || ' ' || j.state || ': ' ||
                    count(a.*) filter (where a.outcome = 'succeeded') || ' successes, ' ||
                    count(a.*) filter (where a.outcome is null) || ' open attempts'
             from jobs j left join job_attempts a on a.job_id = j.id
             where j.finished_at is not null and j.lane <> 'fanout'
             group by j.id, j.kind, j.state
             having count(a.*) filter (where a.outcome is null) > 0
                 or count(a.*) filter (where a.outcome = 'succeeded') <> (case when j.state = 'succeeded' then 1 else 0 end)",
        )
        .fetch_all(&self.pool)
        .await
        .expect("the ledger can be read")
    }
}
