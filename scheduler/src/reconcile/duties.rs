//! Gauges, reaping and archiving.

use std::time::{Duration, Instant};

use shared::{
    db::{
        DbError,
        blobs::retention::{self, Removed},
        events, idempotency, jobs, models, pipelines,
    },
    ids::Incarnation,
};

use super::Control;
use crate::{leader::Lead, metrics::ROLE};

/// Jobs or events moved in one transaction.
const BATCH: i64 = 2000;
/// Batches of one turn; the rest waits for the next, so that reaping is never kept waiting.
const BATCHES_MAX: usize = 10;
/// Uploads and artifacts of each sort that lose their names in one turn; their bytes go later.
const BLOBS: i64 = 1000;
/// Models whose texts are made in one turn.
const TEXTS: i64 = 200;
/// How long answers to idempotent requests are kept.
const KEEP_KEYS: Duration = Duration::from_secs(24 * 3600);

/// Sets the gauges of active jobs and of corrupt files.
///
/// # Errors
/// Database errors.
pub(crate) async fn gauges(control: &Control) -> Result<(), DbError> {
    control.metrics.set_jobs(&jobs::counts(&control.pool).await?);
    control.metrics.corrupt_files.set(models::count_corrupt_files(&control.pool).await? as f64);
    Ok(())
}

/// Sets the gauges of stored bytes.
///
/// # Errors
/// Database errors.
pub(crate) async fn stored(control: &Control) -> Result<(), DbError> {
    control.metrics.set_stored(&retention::stored(&control.pool).await?);
    Ok(())
}

/// Takes jobs back from workers whose lease expired, once the grace is over.
///
/// # Errors
/// Database errors.
pub(crate) async fn reap(control: &Control) -> Result<(), DbError> {
    let Some(lead) = control.leadership.current().filter(|lead| Instant::now() >= lead.reap_from) else {
        return Ok(());
    };
    let mut tx = control.pool.begin().await?;
    let Some(reaped) = jobs::reap(&mut tx, (ROLE, lead.term), jitter()).await? else { return Ok(()) };
    // the answer may have taken long: a database that was away meanwhile gave the workers no chance to renew
    if control.leadership.current().is_none_or(|now| Instant::now() < now.reap_from || now.term != lead.term) {
        return Ok(tx.rollback().await?);
    }
    tx.commit().await?;
    let rescued =
        |reason: &str, count: usize| control.metrics.rescued.with_label_values(&[reason]).inc_by(count as u64);
    rescued("lease_expired", reaped.lost.len());
    rescued("host_gone", reaped.unplaced.len());
    for (id, state) in &reaped.lost {
        tracing::warn!(job.id = %id, %state, "its worker's lease expired; the job was taken back");
    }
    for id in &reaped.unplaced {
        tracing::info!(job.id = %id, "its host went away before the job was claimed; it is placed again");
    }
    Ok(())
}

/// Moves finished jobs to the archive and forgets old events, idempotency keys, histories of pipelines, uploads and artifacts.
///
/// # Errors
/// Database errors.
pub(crate) async fn archive(control: &Control) -> Result<(), DbError> {
    let Some(lead) = control.leadership.current() else { return Ok(()) };
    for _ in 0..BATCHES_MAX {
        let moved = archive_batch(control, lead).await?;
        if moved < BATCH.unsigned_abs() {
            break;
        }
    }
    let mut tx = control.pool.begin().await?;
    jobs::prune_events(&mut tx, (ROLE, lead.term), control.keep_events, BATCH * 5).await?;
    events::prune(&mut tx, (ROLE, lead.term), control.keep_events, BATCH * 5).await?;
    tx.commit().await?;
    idempotency::prune(&control.pool, KEEP_KEYS).await?;
    pipelines::prune_events(&control.pool, control.keep_history, BATCH * 5).await?;
    retire_blobs(control, lead).await
}

/// Takes their names off uploads and artifacts whose time is over; what is more than a turn's waits for the next.
async fn retire_blobs(control: &Control, lead: Lead) -> Result<(), DbError> {
    let mut tx = control.pool.begin().await?;
    let Some(removed) = retention::retire(&mut tx, (ROLE, lead.term), control.keep_blobs, BLOBS).await? else {
        return Ok(());
    };
    tx.commit().await?;
    control.metrics.removed(removed);
    if removed != Removed::default() {
        tracing::info!(uploads = removed.uploads, artifacts = removed.artifacts, "removed what was kept long enough");
    }
    Ok(())
}

/// Removes bytes without a name, a part in each turn, so that reaping is never kept waiting.
///
/// # Errors
/// Database errors.
pub(crate) async fn sweep(control: &Control) -> Result<(), DbError> {
    if control.leadership.current().is_none() {
        return Ok(());
    }
    let unfinished = retention::sweep(&mut *control.pool.acquire().await?).await?;
    control.metrics.removed(Removed { unfinished, ..Removed::default() });
    Ok(())
}

/// Makes texts of models that are listed without them: a scan that ended early left them. While one runs, it makes them itself.
///
/// # Errors
/// Database errors.
pub(crate) async fn texts(control: &Control) -> Result<(), DbError> {
    if control.leadership.current().is_none() {
        return Ok(());
    }
    let made = models::make_due_texts(&control.pool, TEXTS).await?;
    if made > 0 {
        tracing::info!(models = made, "made texts that a scan had not got to");
    }
    Ok(())
}

async fn archive_batch(control: &Control, lead: Lead) -> Result<u64, DbError> {
    let mut tx = control.pool.begin().await?;
    let moved = jobs::archive(&mut tx, (ROLE, lead.term), control.keep_finished, BATCH).await?;
    tx.commit().await?;
    Ok(moved.unwrap_or(0))
}

/// A number in 0..1 that differs from call to call: retries of jobs lost together should not march in step.
fn jitter() -> f64 {
    // the low digits of a fresh ULID are random
    let text = Incarnation::generate().to_string();
    let sum = text.bytes().rev().take(4).fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    f64::from(sum % 1000) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_fraction_and_varies() {
        let values: Vec<f64> = (0..50).map(|_| jitter()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(values.iter().any(|value| *value != values[0]));
    }
}
