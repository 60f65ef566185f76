//! The runs of each component: the first with a new session, a few that do not count, then until the figures settle.

use std::time::Instant;

use engine::measure::{Amount, Measured, Operation};
use shared::{
    job::{BenchmarkArgs, ImageSize, engine::VaeSettings},
    wire::{BenchmarkResult, CaseMeasure, Skipped, case_label},
};

use super::{
    super::engine::{Ensemble, Runs},
    is_about_the_case,
};
use crate::{
    benchmark::{Next, Runs as Series},
    error::WorkError,
    runner::{PartFacts, RunPart, Work},
};

/// One case before it is measured.
struct Case {
    part: PartFacts,
    operation: Operation,
    batch: u32,
    size: ImageSize,
}

impl Case {
    /// The size, where it matters.
    fn size(&self) -> Option<ImageSize> {
        self.operation.has_size().then_some(self.size)
    }

    fn label(&self) -> String {
        case_label(self.operation.as_str(), (self.batch, self.size(), None), &self.part.kind)
    }

    fn amount(&self) -> Amount {
        let side = |pixels: u32| usize::try_from(pixels).unwrap_or(usize::MAX);
        Amount { batch: side(self.batch), width: side(self.size.width), height: side(self.size.height) }
    }
}

/// Measures every case into the result. What cannot be measured is named there; when nothing can, the first reason is the
/// error.
pub(super) async fn measure(
    runs: &Runs<'_>,
    ensemble: &Ensemble,
    args: &BenchmarkArgs,
    result: &mut BenchmarkResult,
) -> Result<(), WorkError> {
    let parts = ensemble.run_parts(runs.agent);
    let mut first_reason = None;
    for case in cases(ensemble, args) {
        match one(runs, &parts, &case, args).await {
            Ok(measured) => result.cases.push(measured),
            Err(error) if is_about_the_case(&error) => {
                result.skipped.push(Skipped { what: case.label(), reason: shared::error::chain(&error) });
                first_reason.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match first_reason {
        Some(error) if result.cases.is_empty() => Err(error),
        _ => Ok(()),
    }
}

/// All cases, small ones first: then each one's memory is more than that of those before it.
fn cases(ensemble: &Ensemble, args: &BenchmarkArgs) -> Vec<Case> {
    let amounts = amounts(args);
    let mut cases = Vec::new();
    for part in ensemble.parts() {
        for operation in Operation::of_kind(&part.kind) {
            let mut seen = Vec::new();
            for (batch, size) in &amounts {
                if operation.has_size() || !seen.contains(batch) {
                    seen.push(*batch);
                    cases.push(Case { part: part.clone(), operation: *operation, batch: *batch, size: *size });
                }
            }
        }
    }
    cases
}

/// Batches and sizes, small ones first.
pub(super) fn amounts(args: &BenchmarkArgs) -> Vec<(u32, ImageSize)> {
    let mut amounts: Vec<(u32, ImageSize)> =
        args.batches.iter().flat_map(|batch| args.sizes.iter().map(|size| (*batch, *size))).collect();
    amounts.sort_by_key(|(batch, size)| u64::from(*batch) * u64::from(size.width) * u64::from(size.height));
    amounts.dedup();
    amounts
}

async fn one(runs: &Runs<'_>, parts: &[RunPart], case: &Case, args: &BenchmarkArgs) -> Result<CaseMeasure, WorkError> {
    let progress = &runs.attempt.progress;
    progress.enter("measuring", u64::from(args.limits.max_runs));
    progress.detail(&case.label());
    let settings = &args.vae_settings;
    let first = once(runs, parts, (case, settings), true).await?;
    let mut peak_bytes = first.peak_bytes;
    for _ in 0..args.limits.warmup_runs {
        peak_bytes = peak_bytes.max(once(runs, parts, (case, settings), false).await?.peak_bytes);
    }
    let begun = Instant::now();
    let mut series = Series::new(args.limits);
    let ended = loop {
        let run = once(runs, parts, (case, settings), false).await?;
        peak_bytes = peak_bytes.max(run.peak_bytes);
        let next = series.note(run.seconds, begun.elapsed().as_secs_f64());
        progress.set(series.count() as u64);
        if let Next::Enough(ended) = next {
            break ended;
        }
    };
    let steady = series.end(ended).ok_or_else(no_time)?;
    let median = steady.summary.p50;
    Ok(CaseMeasure {
        component: case.part.kind.clone(),
        operation: case.operation.as_str().to_owned(),
        batch: case.batch,
        size: case.size(),
        steps: None,
        first_run_seconds: first.seconds,
        items_per_second: if median > 0.0 { f64::from(case.batch) / median } else { 0.0 },
        steady,
        peak_bytes,
        estimated_bytes: first.estimated_bytes,
    })
}

/// A clock that stands still.
pub(super) fn no_time() -> WorkError {
    let source = std::io::Error::other("the runs took no time that can be told");
    WorkError::System { what: "measuring".into(), source }
}

async fn once(
    runs: &Runs<'_>,
    parts: &[RunPart],
    (case, settings): (&Case, &VaeSettings),
    fresh: bool,
) -> Result<Measured, WorkError> {
    let (part, operation, amount) = (case.part.clone(), case.operation, case.amount());
    let work = Work::Measure { part, operation, amount, settings: settings.clone(), fresh };
    let ran = runs.run(&work, parts, Vec::new()).await?;
    serde_json::from_value(ran.facts)
        .map_err(|error| WorkError::System { what: "reading what was measured".into(), source: error.into() })
}
