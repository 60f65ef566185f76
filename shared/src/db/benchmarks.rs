//! What benchmarks measured, with history.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::DbError;
use crate::ids::{BenchmarkId, JobId, ModelId};

/// Benchmarks kept of one model.
const KEPT: i64 = 200;

/// A benchmark to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBenchmark {
    /// Id.
    pub id: BenchmarkId,
    /// The model.
    pub model: ModelId,
    /// The device, `host/name`.
    pub device: String,
    /// Kinds of components that were measured.
    pub components: Vec<String>,
    /// Whole generations were measured.
    pub pipeline: bool,
    /// Arguments of the job.
    pub args: Value,
    /// `Fingerprint`.
    pub fingerprint: Value,
    /// `BenchmarkResult`.
    pub result: Value,
    /// Every case became stable.
    pub stable: bool,
    /// What it was compared with.
    pub baseline: Option<BenchmarkId>,
    /// What that said.
    pub verdict: Option<&'static str>,
    /// `Comparison`.
    pub comparison: Option<Value>,
}

/// A stored benchmark.
#[derive(Debug, Clone, FromRow)]
pub struct BenchmarkRow {
    /// Id.
    pub id: BenchmarkId,
    /// The model.
    pub model_id: ModelId,
    /// Its name.
    pub model_name: String,
    /// The job that made it.
    pub job_id: JobId,
    /// The device, `host/name`.
    pub device: String,
    /// Kinds of components that were measured.
    pub components: Vec<String>,
    /// Whole generations were measured.
    pub pipeline: bool,
    /// Arguments of the job; null in lists.
    pub args: Value,
    /// `Fingerprint`; null in lists.
    pub fingerprint: Value,
    /// `BenchmarkResult`; null in lists.
    pub result: Value,
    /// Every case became stable.
    pub stable: bool,
    /// What it was compared with.
    pub baseline_id: Option<BenchmarkId>,
    /// What that said.
    pub verdict: Option<String>,
    /// `Comparison`; none in lists.
    pub comparison: Option<Value>,
    /// When it ended.
    pub created_at: DateTime<Utc>,
}

/// Stores a benchmark in the caller's (fenced) transaction and drops the oldest of the model beyond what is kept. A model that
/// left the catalogue meanwhile has none (false).
///
/// # Errors
/// Database errors.
pub async fn record(tx: &mut PgConnection, job: JobId, new: &NewBenchmark) -> Result<bool, DbError> {
    let stored = sqlx::query(
        "insert into benchmarks (id, model_id, job_id, device, components, pipeline, args, fingerprint, result, stable,
                                 baseline_id, verdict, comparison)
         select $1, m.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 from models m where m.id = $2",
    )
    .bind(new.id)
    .bind(new.model)
    .bind(job)
    .bind(&new.device)
    .bind(&new.components)
    .bind(new.pipeline)
    .bind(&new.args)
    .bind(&new.fingerprint)
    .bind(&new.result)
    .bind(new.stable)
    .bind(new.baseline)
    .bind(new.verdict)
    .bind(&new.comparison)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "delete from benchmarks where model_id = $1
           and id not in (select id from benchmarks where model_id = $1 order by created_at desc, id desc limit $2)",
    )
    .bind(new.model)
    .bind(KEPT)
    .execute(tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// Which benchmarks to list; absent means any.
#[derive(Debug, Clone, Copy, Default)]
pub struct BenchmarkFilter<'f> {
    /// Of this model.
    pub model: Option<ModelId>,
    /// On this device.
    pub device: Option<&'f str>,
    /// Those that measured this kind of component.
    pub component: Option<&'f str>,
    /// Those of whole generations, or (false) of components.
    pub pipeline: Option<bool>,
}

/// Benchmarks, the newest first, without their figures; those before `after` (time and id) if given.
///
/// # Errors
/// Database errors.
pub async fn list(
    db: impl PgExecutor<'_>,
    filter: BenchmarkFilter<'_>,
    after: Option<(DateTime<Utc>, BenchmarkId)>,
    limit: i64,
) -> Result<Vec<BenchmarkRow>, DbError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(
        "select b.id, b.model_id, m.name as model_name, b.job_id, b.device, b.components, b.pipeline, 'null'::jsonb as args,
                'null'::jsonb as fingerprint, 'null'::jsonb as result, b.stable, b.baseline_id, b.verdict,
                null::jsonb as comparison, b.created_at
         from benchmarks b join models m on m.id = b.model_id
         where ($1::text is null or b.model_id = $1) and ($2::text is null or b.device = $2)
           and ($3::text is null or $3 = any (b.components)) and ($4::bool is null or b.pipeline = $4)
           and ($5::timestamptz is null or (b.created_at, b.id) < ($5, $6))
         order by b.created_at desc, b.id desc limit $7",
    )
    .bind(filter.model)
    .bind(filter.device)
    .bind(filter.component)
    .bind(filter.pipeline)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// One benchmark.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, id: BenchmarkId) -> Result<Option<BenchmarkRow>, DbError> {
    Ok(sqlx::query_as(
        "select b.id, b.model_id, m.name as model_name, b.job_id, b.device, b.components, b.pipeline, b.args, b.fingerprint,
                b.result, b.stable, b.baseline_id, b.verdict, b.comparison, b.created_at
         from benchmarks b join models m on m.id = b.model_id where b.id = $1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?)
}

/// What a benchmark measures, for one before it to be comparable.
#[derive(Debug, Clone, Copy)]
pub struct Measures<'m> {
    /// The model.
    pub model: ModelId,
    /// The device, `host/name`.
    pub device: &'m str,
    /// Kinds of components.
    pub components: &'m [String],
    /// Steps of whole generations; none of components.
    pub steps: Option<u32>,
    /// Sizes, as the job's arguments write them.
    pub sizes: &'m [String],
    /// Batches.
    pub batches: &'m [i32],
}

/// The newest that measured some of this in as many steps; one that measured all of it comes before any that did not.
///
/// # Errors
/// Database errors.
pub async fn newest(db: impl PgExecutor<'_>, measures: Measures<'_>) -> Result<Option<BenchmarkId>, DbError> {
    let Measures { model, device, components, steps, sizes, batches } = measures;
    Ok(sqlx::query_scalar(
        "select id from benchmarks
         where model_id = $1 and device = $2 and pipeline = ($4::bigint is not null) and components && $3
           and (args ->> 'pipeline_steps')::bigint is not distinct from $4
         order by (components @> $3 and args -> 'sizes' @> to_jsonb($5::text[]) and args -> 'batches' @> to_jsonb($6::int[]))
                  desc nulls last, created_at desc, id desc
         limit 1",
    )
    .bind(model)
    .bind(device)
    .bind(components)
    .bind(steps.map(i64::from))
    .bind(sizes)
    .bind(batches)
    .fetch_optional(db)
    .await?)
}
