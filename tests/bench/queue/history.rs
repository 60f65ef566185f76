//! A past for the product's tables: finished jobs of ten days, held as the product holds them with its defaults.
//!
//! Jobs of the last day are in `jobs` (`--keep-finished 1d`), older ones in the archive's partition of their month; every job
//! has its attempt; jobs of the last seven days have their four events (`--keep-events 7d`).

use shared::db::Pool;
use sqlx::Executor;

/// `$1` jobs, ids that sort before all new ones, evenly over the ten days that end now.
const PAST: &str = "
    create temporary table past on commit drop as
    select n, '01' || lpad(upper(to_hex(n)), 24, '0') as id, now() - (($1 + 1 - n)::float8 / $1) * interval '10 days' as at
    from generate_series(1, $1::bigint) n";

const PARTITIONS: &str = "
    select ensure_archive_partition(month) from (select distinct date_trunc('month', at) as month from past) months";

macro_rules! finished {
    ($table:literal, $which:literal) => {
        concat!(
            "insert into ",
            $table,
            " (id, kind, args, state, lane, pin_host, pin_device, model_id, unique_key, run_at, attempt, fence, host, device,
               placement, result, created_at, placed_at, claimed_at, started_at, finished_at)
             select id, 'unload', jsonb_build_object('model', id, 'from_ram', false), 'succeeded', 'device', 'bench', 'bench/cpu:0', id,
                    'unload/' || id || '/*/false/device:bench/cpu:0', at, 1, 1, 'bench', 'bench/cpu:0',
                    '{\"score\": {\"locality\": \"nowhere\"}, \"runner_up\": null, \"refused\": {}}', '{}',
                    at - interval '3 s', at - interval '2 s', at - interval '1 s', at - interval '1 s', at
             from past where ",
            $which
        )
    };
}

const STATEMENTS: [&str; 4] = [
    // the limit is an hour short of a day: the archiver has nothing to move while the bench runs
    finished!("job_archive", "at < now() - interval '23 hours'"),
    finished!("jobs", "at >= now() - interval '23 hours'"),
    "insert into job_attempts (job_id, fence, attempt, host, device, incarnation, started_at, ended_at, outcome)
     select id, 1, 1, 'bench', 'bench/cpu:0', '01JD9Z8M3V6Q2X4K7T5R1W0YBC', at - interval '1 s', at, 'succeeded' from past",
    "insert into job_events (job_id, at, type, data)
     select id, at + after, type, '{\"host\": \"bench\", \"device\": \"bench/cpu:0\", \"fence\": 1}'
     from past, (values ('enqueued', interval '-3 s'), ('placed', '-2 s'), ('started', '-1 s'), ('succeeded', '0 s')) as e (type, after)
     where at >= now() - interval '7 days' order by n",
];

const TABLES: [&str; 4] = ["jobs", "job_attempts", "job_events", "job_archive"];

/// Adds `jobs` finished jobs and refreshes the statistics.
///
/// # Errors
/// Database errors.
pub(crate) async fn add(pool: &Pool, jobs: i64) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query(PAST).bind(jobs).execute(&mut *tx).await?;
    tx.execute(PARTITIONS).await?;
    for statement in STATEMENTS {
        tx.execute(statement).await?;
    }
    tx.commit().await?;
    let mut session = pool.acquire().await?;
    for table in TABLES {
        session.execute(sqlx::AssertSqlSafe(format!("vacuum (analyze) {table}"))).await?;
    }
    Ok(())
}

/// Empties the tables.
///
/// # Errors
/// Database errors.
pub(crate) async fn clear(pool: &Pool) -> anyhow::Result<()> {
    pool.execute("truncate jobs, job_attempts, job_events, job_progress, job_archive").await?;
    Ok(())
}
