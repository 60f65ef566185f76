//! Runs on made-up inputs: whether a part runs at all, and what a run of it takes.

use engine::{
    forward,
    measure::{self, Amount, Operation},
};
use shared::{
    error::{ErrorBody, ErrorCode},
    job::engine::VaeSettings,
};

use super::{Bench, parts::component, vae};
use crate::runner::{
    PartFacts,
    engine_thread::{Outcome, RunFailure},
};

/// Runs a part once, as small as it can be. The facts are the engine's report.
pub(super) fn forward(bench: &Bench<'_>, part: &PartFacts) -> Result<Outcome, RunFailure> {
    let (weights, graph) = (bench.weights(part)?, bench.graph(part)?);
    told(forward::check(bench.runtime, &component(part, graph.as_deref()), weights, &bench.silent())?)
}

/// Runs a part once at this amount; with `fresh` its graphs are compiled anew, which the time then holds. Says nothing on the
/// way: messages would be part of what is measured.
pub(super) fn measure(
    bench: &Bench<'_>,
    part: &PartFacts,
    work: (Operation, Amount),
    (settings, fresh): (&VaeSettings, bool),
) -> Result<Outcome, RunFailure> {
    let regained = if fresh { bench.runtime.regain() } else { 0 };
    let (weights, graph) = (bench.weights(part)?, bench.graph(part)?);
    let component = component(part, graph.as_deref());
    bench.order.aside.regained(regained);
    let bound = (!vae::is_whole(settings)).then_some(bench.room());
    let settings = vae::of_request(settings);
    told(measure::once(bench.runtime, &component, (weights, settings), work, bound, &bench.silent())?)
}

fn told<T: serde::Serialize>(facts: T) -> Result<Outcome, RunFailure> {
    let facts = serde_json::to_value(facts).map_err(|error| {
        RunFailure::Work(ErrorBody::new(ErrorCode::Internal, format!("the run's facts cannot be told: {error}")))
    })?;
    Ok(Outcome { facts, blobs: Vec::new() })
}
