//! A compiled graph without weights, and how it is run.

use std::sync::{Arc, Mutex, PoisonError};

use ort::{
    environment::Environment,
    session::{RunOptions, Session as Compiled, builder::GraphOptimizationLevel},
};

use super::{
    RuntimeOptions,
    binding::{self, Given},
    check,
    control::Control,
    value::Places,
};
use crate::{
    error::EngineError,
    graph::{Emitted, Port, Provider, Slot},
    tensor::Tensor,
    weights::Weights,
};

/// A compiled graph. Runs one at a time.
pub struct Session {
    name: String,
    compiled: Mutex<Compiled>,
    places: Places,
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
            places: Places::new(options.device)?,
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
        let outcome = binding::run(&mut compiled, &self.places, &given, &options);
        // a run that was told to stop ends with an error of the library's own
        outcome.map_err(|error| if control.cancel.is_cancelled() { EngineError::Cancelled } else { error })
    }
}

/// Compiles a model whose weights are inputs: there is nothing to fold or to pack.
fn compile(environment: &Environment, options: &RuntimeOptions, model: &[u8]) -> Result<Compiled, EngineError> {
    let failed = "preparing a session";
    let builder = Compiled::builder(environment).map_err(EngineError::onnx(failed))?;
    let builder = builder
        .with_optimization_level(GraphOptimizationLevel::Level1)
        .and_then(|builder| builder.with_intra_threads(options.threads))
        // a service with many sessions must not burn cores while it waits
        .and_then(|builder| builder.with_intra_op_spinning(false))
        // shapes change from run to run: a pattern would hold the largest of each
        .and_then(|builder| builder.with_memory_pattern(false));
    let mut builder = builder.map_err(EngineError::onnx(failed))?;
    builder.commit_from_memory(model).map_err(EngineError::onnx("compiling the graph"))
}
