//! A compiled graph without weights, and how it is run.

use std::sync::{Arc, Mutex, PoisonError};

use ort::{
    environment::Environment,
    session::{RunOptions, builder::GraphOptimizationLevel},
};

use super::{
    RuntimeOptions,
    binding::{self, Given},
    check,
    control::Control,
    peak, provider,
    value::Places,
};
use crate::{
    error::EngineError,
    graph::{Emitted, Port, Provider, Slot},
    tensor::Tensor,
    weights::Weights,
};

/// The outputs of a run and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// In the graph's order.
    pub outputs: Vec<Tensor>,
    /// The most memory that was in use at once, beside weights and inputs. None when an earlier run of the session took
    /// as much or more: the library remembers the most only.
    pub peak_bytes: Option<u64>,
}

/// A compiled graph. Runs one at a time.
pub struct Session {
    name: String,
    compiled: Mutex<Compiled>,
    slots: Vec<Slot>,
    inputs: Vec<Port>,
    outputs: Vec<String>,
    target: (Provider, i32),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        environment: &Environment,
        options: &RuntimeOptions,
        emitted: &Emitted,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            name: emitted.name.clone(),
            compiled: Mutex::new(compile(environment, options, &emitted.model)?),
            slots: emitted.slots.clone(),
            inputs: emitted.inputs.clone(),
            outputs: emitted.outputs.clone(),
            target: (options.provider, options.device),
        })
    }

    /// The weights that a run takes.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Runs the graph over these weights and inputs; the outputs come in the graph's order.
    ///
    /// Everything is checked before anything runs. The memory of the weights is held until it returns.
    ///
    /// # Errors
    /// Missing or wrong weights and inputs, by name; [`EngineError::Cancelled`] when `control` says so.
    pub fn run(
        &self,
        weights: &Weights,
        inputs: &[(&str, &Tensor)],
        control: &Control,
    ) -> Result<Vec<Tensor>, EngineError> {
        self.run_measured(weights, inputs, control).map(|outcome| outcome.outputs)
    }

    /// [`Session::run`], with what memory it took.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_measured(
        &self,
        weights: &Weights,
        inputs: &[(&str, &Tensor)],
        control: &Control,
    ) -> Result<Outcome, EngineError> {
        let given = Given {
            slots: &self.slots,
            weights: check::weights(&self.name, &self.slots, weights, self.target)?,
            ports: &self.inputs,
            inputs: check::inputs(&self.inputs, inputs)?,
            outputs: &self.outputs,
        };
        let options = Arc::new(RunOptions::new().map_err(EngineError::onnx("preparing a run"))?);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let _watch = control.cancel.watch(&options)?;
        let before = peak::most_bytes(&compiled.session);
        let Compiled { session, places } = &mut *compiled;
        let outcome = binding::run(session, places, &given, &options);
        // a run that was told to stop ends with an error of the library's own
        let outputs = outcome.map_err(|error| match error {
            EngineError::Onnx { .. } if control.cancel.is_cancelled() => EngineError::Cancelled,
            error => error,
        })?;
        let peak_bytes =
            peak::most_bytes(&compiled.session).filter(|bytes| before.is_none_or(|before| *bytes > before));
        Ok(Outcome { outputs, peak_bytes })
    }
}

/// What only one thread may use at a time.
struct Compiled {
    session: ort::session::Session,
    places: Places,
}

/// Compiles a model whose weights are inputs: there is nothing to fold or to pack.
fn compile(environment: &Environment, options: &RuntimeOptions, model: &[u8]) -> Result<Compiled, EngineError> {
    fn prepared<T, E: std::fmt::Display>(step: Result<T, E>) -> Result<T, EngineError> {
        step.map_err(EngineError::onnx("preparing a session"))
    }
    let builder = prepared(ort::session::Session::builder(environment))?;
    let builder = prepared(builder.with_optimization_level(GraphOptimizationLevel::Level1))?;
    let builder = prepared(builder.with_intra_threads(options.threads))?;
    // a service with many sessions must not burn cores while it waits
    let builder = prepared(builder.with_intra_op_spinning(false))?;
    // shapes change from run to run: a pattern would hold the largest of each
    let mut builder = prepared(builder.with_memory_pattern(false))?;
    if options.provider == Provider::Cuda {
        builder = prepared(builder.with_execution_providers([provider::cuda(options.device)]))?;
    }
    let session = builder.commit_from_memory(model).map_err(EngineError::onnx("compiling the graph"))?;
    Ok(Compiled { session, places: Places::new(options.device)? })
}
