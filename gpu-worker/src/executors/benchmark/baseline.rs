//! The benchmark that a result is compared with.

use shared::{
    db::{
        DbError,
        benchmarks::{self, Measures},
    },
    job::{Baseline, BenchmarkArgs},
    measure::{Side, compare_reports},
    wire::{BenchmarkResult, Comparison, Fingerprint, Skipped},
};

use crate::{context::Agent, error::WorkError};

/// Compares with the baseline that was asked for; none when none was, or none is there (which the result says).
pub(super) async fn compare(
    agent: &Agent,
    (device, components): (&str, &[String]),
    args: &BenchmarkArgs,
    fingerprint: &Fingerprint,
    result: &mut BenchmarkResult,
) -> Result<Option<Comparison>, WorkError> {
    let id = match args.baseline {
        None => return Ok(None),
        Some(Baseline::Of(id)) => Some(id),
        Some(Baseline::Last) => {
            let sizes: Vec<String> = args.sizes.iter().map(ToString::to_string).collect();
            let batches: Vec<i32> = args.batches.iter().filter_map(|batch| i32::try_from(*batch).ok()).collect();
            let (model, steps) = (args.model, args.pipeline_steps);
            let measures = Measures { model, device, components, steps, sizes: &sizes, batches: &batches };
            benchmarks::newest(&agent.pool, measures).await?
        }
    };
    let row = match id {
        Some(id) => benchmarks::find(&agent.pool, id).await?,
        None => None,
    };
    let Some(row) = row else {
        let reason = match id {
            Some(id) => format!("benchmark {id} is not there any more"),
            None => "it is the first of this model on this device that measures this".to_owned(),
        };
        result.skipped.push(Skipped { what: "comparison".to_owned(), reason });
        return Ok(None);
    };
    let unread = |error: serde_json::Error| WorkError::Db(DbError::BadRow(error.to_string()));
    let before: BenchmarkResult = serde_json::from_value(row.result).map_err(unread)?;
    let of_before: Fingerprint = serde_json::from_value(row.fingerprint).map_err(unread)?;
    let before = Side { result: &before, fingerprint: &of_before, args: &row.args };
    let args_now = super::encoded(args)?;
    let after = Side { result, fingerprint, args: &args_now };
    Ok(Some(compare_reports((row.id, before), (None, after), args.bound_percent)))
}
