//! One run of a model's graph: the session is looked up, the estimator learns what the run took.

use crate::{
    error::EngineError,
    graph::Emitted,
    runtime::{Control, Outcome, Runtime},
    tensor::{ElementType, Tensor},
    weights::Weights,
};

/// Runs a graph whose largest value has `largest_bytes`; the outputs come in the graph's order.
///
/// # Errors
/// As those of a session and of its run.
pub(super) fn run_learning(
    runtime: &Runtime,
    emitted: &Emitted,
    weights: &Weights,
    inputs: &[(&str, &Tensor)],
    largest_bytes: u64,
    control: &Control,
) -> Result<Outcome, EngineError> {
    let session = runtime.session(emitted)?;
    let outcome = session.run_measured(weights, inputs, control)?;
    if let Some(peak_bytes) = outcome.peak_bytes {
        runtime.learn_memory(emitted, largest_bytes, peak_bytes);
    }
    Ok(outcome)
}

/// Whether any weight is stored otherwise than it is computed with, so that a run holds converted copies.
pub(super) fn is_converted(weights: &Weights) -> bool {
    weights.iter().any(|(_, weight)| weight.dtype != ElementType::F32)
}
