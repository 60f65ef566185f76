//! `benchmark`: how long loads take, what the first run and those after it take, for each component, batch and size.

mod baseline;
mod cases;
mod loads;
mod pipeline;

use std::sync::Arc;

use serde_json::json;
use shared::{
    db::benchmarks::NewBenchmark,
    error::{Classify, ErrorCode},
    ids::BenchmarkId,
    job::{BenchmarkArgs, engine::Role},
    measure::Verdict,
    wire::{BenchmarkResult, Fingerprint},
};

use super::{
    Done,
    engine::{Draft, Ensemble, Extras, Runs, Site, vae_of},
    load::device_of,
    model::{self, Wanted},
};
use crate::{
    benchmark,
    commit::Effects,
    context::{Agent, Device},
    error::WorkError,
    running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, mut args: BenchmarkArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("locating", 0);
    let device = device_of(agent, attempt)?;
    let whole = model::wanted(agent, args.model, None).await?;
    let mut wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    wanted.components.retain(|row| Role::any_means(&row.kind));
    if args.pipeline_steps.is_some() {
        args.vae = vae_of(agent, args.model, args.vae).await?;
        let role = if args.vae.is_some() { Role::WithoutVae } else { Role::Pipeline };
        wanted.must_have_beside(role, &args.text_encoders)?;
    }
    if wanted.components.is_empty() {
        return Err(WorkError::NoPart { model: wanted.model.name, part: "component that can be run" });
    }
    let mut result = BenchmarkResult::default();
    loads::measure(agent, attempt, device, (&wanted, &args), &mut result).await?;
    let model = wanted.model.name.clone();
    let site = Site { agent, attempt, device };
    let extras = Extras { vae: args.vae, text_encoders: &args.text_encoders, ..Extras::loras(&args.loras) };
    let ensemble = Draft::of_parts(site, &whole, wanted, extras).await?.realise(site).await?;
    let runs = Runs { agent, attempt, device };
    match args.pipeline_steps {
        Some(steps) => pipeline::measure(&runs, &ensemble, (&args, steps), &mut result).await?,
        None => cases::measure(&runs, &ensemble, &args, &mut result).await?,
    }
    finish(agent, device, &args, model, &ensemble, result).await
}

/// The row, compared with its baseline, and the job's result.
async fn finish(
    agent: &Agent,
    device: &Device,
    args: &BenchmarkArgs,
    model: String,
    ensemble: &Ensemble,
    mut result: BenchmarkResult,
) -> Result<Done, WorkError> {
    let fingerprint = benchmark::fingerprint(agent, device);
    let components = ensemble.kinds();
    let comparison = baseline::compare(agent, (&device.id, &components), args, &fingerprint, &mut result).await?;
    let verdict = comparison.as_ref().map(|comparison| comparison.verdict);
    agent.metrics.benchmarks.ended(&result, verdict);
    let verdict = verdict.map(Verdict::as_str);
    let row = NewBenchmark {
        id: BenchmarkId::generate(),
        model: args.model,
        device: device.id.clone(),
        components,
        pipeline: args.pipeline_steps.is_some(),
        args: encoded(args)?,
        fingerprint: encoded::<Fingerprint>(&fingerprint)?,
        stable: result.stable(),
        baseline: comparison.as_ref().map(|comparison| comparison.before),
        verdict,
        comparison: comparison.as_ref().map(encoded).transpose()?,
        result: encoded(&result)?,
    };
    let shown = json!({
        "model": model, "device": device.id, "benchmark": row.id, "stable": row.stable, "verdict": verdict,
        "cases": result.cases.iter().map(|case| json!({
            "what": case.label(), "p50_seconds": case.steady.summary.p50, "stable": case.steady.stable,
        })).collect::<Vec<_>>(),
        "skipped": result.skipped,
    });
    Ok(Done { result: shown, effects: Effects::Benchmarked(Box::new(row), ensemble.digests()) })
}

fn encoded<T: serde::Serialize>(value: &T) -> Result<serde_json::Value, WorkError> {
    serde_json::to_value(value)
        .map_err(|error| WorkError::System { what: "writing what was measured".into(), source: error.into() })
}

/// Whether an error says that this cannot be measured, and nothing about the rest. Bytes that are not the registered ones end the job, which
/// tells of them.
fn is_about_the_case(error: &WorkError) -> bool {
    !matches!(error, WorkError::OtherBytes { .. })
        && matches!(
            error.code(),
            ErrorCode::InvalidArgument
                | ErrorCode::Corrupt
                | ErrorCode::Unsupported
                | ErrorCode::InsufficientCapacity
                | ErrorCode::Conflict
        )
}

/// The components of one row of a model, alone.
fn alone(wanted: &Wanted, at: usize) -> Option<Wanted> {
    let row = wanted.components.get(at)?.clone();
    Some(Wanted { model: wanted.model.clone(), components: vec![row] })
}
