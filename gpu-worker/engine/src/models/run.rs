//! A model's graph over its weights, and one run of it: the session is looked up, the estimator learns what the run took.

use std::sync::Arc;

use super::users;
use crate::{
    error::EngineError,
    graph::{Emitted, Provider, fixed},
    runtime::{Control, Outcome, Part, Runtime, Took},
    tensor::{ElementType, Tensor},
    weights::{TensorFacts, Weights},
};

/// A graph over its weights.
#[derive(Debug)]
pub(super) struct Bound {
    runtime: Arc<Runtime>,
    part: Part,
    emitted: Emitted,
    weights: Weights,
}

impl Bound {
    /// The graph is compiled now, so that what the library refuses is told here.
    ///
    /// # Errors
    /// What ONNX Runtime refuses.
    pub(super) fn new(
        runtime: &Arc<Runtime>,
        part: Part,
        emitted: Emitted,
        weights: Weights,
    ) -> Result<Self, EngineError> {
        runtime.session(&emitted)?;
        Ok(Self { runtime: Arc::clone(runtime), part, emitted, weights })
    }

    pub(super) fn emitted(&self) -> &Emitted {
        &self.emitted
    }

    /// Whether a run holds converted copies of weights.
    pub(super) fn is_converted(&self) -> bool {
        self.emitted.is_converting
    }

    /// Bytes that a run takes whose largest value has so many: measured before, or supposed.
    pub(super) fn estimate(&self, largest_bytes: u64) -> u64 {
        self.runtime.memory_factor(&self.emitted).bytes(largest_bytes)
    }

    /// The only number of rows that the input takes: a user's graph may be for one, and fewer are filled up to it.
    pub(super) fn only_rows(&self, input: &str) -> Option<usize> {
        self.emitted.inputs.iter().find(|port| port.name == input).and_then(|port| fixed(port, 0))
    }

    /// Runs it; the outputs come in the graph's order.
    ///
    /// # Errors
    /// As those of a session and of its run.
    pub(super) fn run(
        &self,
        inputs: &[(&str, &Tensor)],
        largest_bytes: u64,
        control: &Control,
    ) -> Result<Outcome, EngineError> {
        run_learning(&self.runtime, (self.part, &self.emitted), &self.weights, inputs, largest_bytes, control)
    }
}

/// Runs a graph whose largest value has `largest_bytes`; the outputs come in the graph's order.
///
/// # Errors
/// As those of a session and of its run.
pub(super) fn run_learning(
    runtime: &Runtime,
    (part, emitted): (Part, &Emitted),
    weights: &Weights,
    inputs: &[(&str, &Tensor)],
    largest_bytes: u64,
    control: &Control,
) -> Result<Outcome, EngineError> {
    let session = runtime.session(emitted)?;
    let estimated_bytes = runtime.memory_factor(emitted).bytes(largest_bytes);
    control.reserve(estimated_bytes)?;
    let outcome = users::adapted(emitted, inputs, |inputs| session.run_measured(weights, inputs, control))?;
    runtime.learn_memory(emitted, &session, largest_bytes, outcome.peak_bytes);
    control.took(Took { part, estimated_bytes, peak_bytes: outcome.peak_bytes });
    Ok(outcome)
}

/// The type in which a graph computes. The CPU computes in 32 bits always: it has no 16-bit kernels. A GPU computes in 16
/// where most weights are stored so and the model bears it.
pub(super) fn compute_type(provider: Provider, facts: &TensorFacts, upcast: bool) -> ElementType {
    let is_half = |dtype: ElementType| matches!(dtype, ElementType::F16 | ElementType::Bf16);
    let halves = facts.iter().filter(|(_, fact)| is_half(fact.dtype)).count();
    let mostly = halves.saturating_mul(2) > facts.len();
    if provider == Provider::Cuda && mostly && !upcast { ElementType::F16 } else { ElementType::F32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::TensorFact;

    #[test]
    fn only_a_gpu_computes_in_16_bits_and_only_from_weights_of_16() {
        let facts = |dtype| {
            let fact = TensorFact { dtype, shape: vec![1] };
            [("a".to_owned(), fact)].into_iter().collect::<TensorFacts>()
        };
        for dtype in [ElementType::F16, ElementType::Bf16] {
            assert_eq!(compute_type(Provider::Cuda, &facts(dtype), false), ElementType::F16);
            assert_eq!(compute_type(Provider::Cuda, &facts(dtype), true), ElementType::F32);
            assert_eq!(compute_type(Provider::Cpu, &facts(dtype), false), ElementType::F32);
        }
        assert_eq!(compute_type(Provider::Cuda, &facts(ElementType::F32), false), ElementType::F32);
    }
}
