//! The benchmark that a result is compared with.

use shared::{
    db::{DbError, benchmarks},
    job::{Baseline, BenchmarkArgs},
    measure::{Side, compare_reports},
    wire::{BenchmarkResult, Comparison, Fingerprint, Skipped},
};

use crate::{context::Agent, error::WorkError};

/// Compares with the baseline that was asked for; none when none was, or none is there (which the result says).
pub(super) async fn compare(
    agent: &Agent,
    device: &str,
    args: &BenchmarkArgs,
    fingerprint: &Fingerprint,
    result: &mut BenchmarkResult,
) -> Result<Option<Comparison>, WorkError> {
    let id = match args.baseline {
        None => return Ok(None),
        Some(Baseline::Of(id)) => Some(id),
        Some(Baseline::Last) => {
            benchmarks::newest(&agent.pool, args.model, device, args.pipeline_steps.is_some()).await?
        }
    };
    let row = match id {
        Some(id) => benchmarks::find(&agent.pool, id).await?,
        None => None,
    };
    let Some(row) = row else {
        let reason = match id {
            Some(id) => format!("benchmark {id} is not there any more"),
            None => "it is the first of this model on this device".to_owned(),
        };
        result.skipped.push(Skipped { what: "comparison".to_owned(), reason });
        return Ok(None);
    };
    let unread = |error: serde_json::Error| WorkError::Db(DbError::BadRow(error.to_string()));
    let before: BenchmarkResult = serde_json::from_value(row.result).map_err(unread)?;
    let of_before: Fingerprint = serde_json::from_value(row.fingerprint).map_err(unread)?;
    let before = Side { result: &before, fingerprint: &of_before };
    let after = Side { result, fingerprint };
    Ok(Some(compare_reports((row.id, before), (None, after), args.bound_percent)))
}
