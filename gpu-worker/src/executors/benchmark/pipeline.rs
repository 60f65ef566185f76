//! Whole generations: from a prompt to images, as a `generate` job makes them.

use std::time::Instant;

use serde_json::{Value, json};
use shared::{
    job::{BenchmarkArgs, ImageSize, engine::GenerateArgs},
    wire::{BenchmarkResult, CaseMeasure, Skipped, case_label},
};

use super::{
    super::engine::{Ensemble, Generation, Runs},
    is_about_the_case,
};
use crate::{
    benchmark::{Next, Runs as Series},
    error::WorkError,
    runner::Work,
};

/// Measures a generation of `steps` steps for each batch and size into the result.
pub(super) async fn measure(
    runs: &Runs<'_>,
    ensemble: &Ensemble,
    (args, steps): (&BenchmarkArgs, u32),
    result: &mut BenchmarkResult,
) -> Result<(), WorkError> {
    let generation = Generation::of(runs.agent, ensemble).await?;
    let mut first_reason = None;
    for (batch, size) in super::cases::amounts(args) {
        let pipeline = Pipeline { runs, ensemble, generation: &generation, args, steps, batch, size };
        match pipeline.case().await {
            Ok(measured) => result.cases.push(measured),
            Err(error) if is_about_the_case(&error) => {
                let what = case_label("generate", (batch, Some(size), Some(steps)), "pipeline");
                result.skipped.push(Skipped { what, reason: shared::error::chain(&error) });
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

/// One batch and size.
struct Pipeline<'a> {
    runs: &'a Runs<'a>,
    ensemble: &'a Ensemble,
    generation: &'a Generation,
    args: &'a BenchmarkArgs,
    steps: u32,
    batch: u32,
    size: ImageSize,
}

/// What one generation took; bytes are the most that one of its models took beside the weights.
struct Once {
    seconds: f64,
    peak_bytes: Option<u64>,
    estimated_bytes: Option<u64>,
}

impl Pipeline<'_> {
    async fn case(&self) -> Result<CaseMeasure, WorkError> {
        let limits = self.args.limits;
        let mut number: u64 = 0;
        let mut next = || {
            number = number.saturating_add(1);
            number
        };
        let first = self.once(next(), true).await?;
        let mut peak_bytes = first.peak_bytes;
        for _ in 0..limits.warmup_runs {
            peak_bytes = peak_bytes.max(self.once(next(), false).await?.peak_bytes);
        }
        let begun = Instant::now();
        let mut series = Series::new(limits);
        let ended = loop {
            let run = self.once(next(), false).await?;
            peak_bytes = peak_bytes.max(run.peak_bytes);
            if let Next::Enough(ended) = series.note(run.seconds, begun.elapsed().as_secs_f64()) {
                break ended;
            }
        };
        let steady = series.end(ended).ok_or_else(super::cases::no_time)?;
        let median = steady.summary.p50;
        Ok(CaseMeasure {
            component: "pipeline".to_owned(),
            operation: "generate".to_owned(),
            batch: self.batch,
            size: Some(self.size),
            steps: Some(self.steps),
            first_run_seconds: first.seconds,
            items_per_second: if median > 0.0 { f64::from(self.batch) / median } else { 0.0 },
            steady,
            peak_bytes,
            estimated_bytes: first.estimated_bytes,
        })
    }

    /// Run number `number`, with graphs compiled anew where `fresh`. Its prompt is its own, so that no kept embedding answers for the
    /// encoders.
    async fn once(&self, number: u64, fresh: bool) -> Result<Once, WorkError> {
        let asked = json!({
            "model": self.args.model, "prompt": format!("a photograph of house number {number}"), "seed": number,
            "width": self.size.width, "height": self.size.height, "steps": self.steps, "batch": self.batch,
            "vae_settings": self.args.vae_settings,
        });
        let args: GenerateArgs = serde_json::from_value(asked)
            .map_err(|error| WorkError::System { what: "writing a run's work".into(), source: error.into() })?;
        let mut work = self.generation.work(self.ensemble, args, None)?;
        if let Work::Generate(work) = &mut work {
            work.fresh = fresh;
        }
        let begun = Instant::now();
        let ran = self.runs.run(&work, &self.ensemble.run_parts(self.runs.agent), Vec::new()).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = |name: &str| ran.facts.get(name).and_then(Value::as_u64);
        Ok(Once { seconds, peak_bytes: bytes("peak_bytes"), estimated_bytes: bytes("estimated_bytes") })
    }
}
