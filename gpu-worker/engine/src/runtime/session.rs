//! A graph that can be run: compiled when it is needed, without weights.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Instant,
};

use ort::session::RunOptions;

use super::{
    Context, allocation,
    binding::{self, Given},
    cache::Standing,
    check,
    compile::{self, Compiled, Source},
    control::Control,
    peak,
};
use crate::{
    error::EngineError,
    graph::{Emitted, Port, Slot},
    tensor::Tensor,
    weights::Weights,
};

/// The outputs of a run and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// In the graph's order.
    pub outputs: Vec<Tensor>,
    /// The memory that the session has taken for its runs, beside weights and inputs, and keeps until it is given up. None
    /// when this run needed no more than an earlier one.
    pub peak_bytes: Option<u64>,
}

/// A graph that can be run. Runs one at a time.
pub struct Session {
    name: String,
    context: Arc<Context>,
    source: Source,
    slots: Vec<Slot>,
    inputs: Arc<[Port]>,
    state: Mutex<State>,
}

struct State {
    compiled: Option<Compiled>,
    outputs: Arc<[Port]>,
    used: Instant,
    /// The largest value, in bytes, of the largest run since it was compiled.
    largest_bytes: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn emitted(context: &Arc<Context>, emitted: &Emitted) -> Self {
        let model = emitted.model.clone();
        let source = if emitted.is_users { Source::Users(model) } else { Source::Emitted(model) };
        Self::new(context, emitted.name.clone(), source, emitted.slots.clone(), emitted.inputs.clone().into())
    }

    fn new(context: &Arc<Context>, name: String, source: Source, slots: Vec<Slot>, inputs: Arc<[Port]>) -> Self {
        let state = State { compiled: None, outputs: Arc::new([]), used: Instant::now(), largest_bytes: 0 };
        Self { name, context: Arc::clone(context), source, slots, inputs, state: Mutex::new(state) }
    }

    /// The weights that a run takes.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The inputs that are no weights.
    pub fn inputs(&self) -> Arc<[Port]> {
        Arc::clone(&self.inputs)
    }

    /// The outputs.
    pub fn outputs(&self) -> Arc<[Port]> {
        Arc::clone(&self.lock().outputs)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles the graph if it is not.
    pub(super) fn ensure_compiled(&self) -> Result<(), EngineError> {
        self.compiled(&mut self.lock())
    }

    fn compiled(&self, state: &mut State) -> Result<(), EngineError> {
        if state.compiled.is_some() {
            return Ok(());
        }
        let Context { environment, options, cache } = &*self.context;
        cache.make_room(options.max_sessions);
        let compiled = compile::compile(environment, options, &self.source)?;
        state.outputs = compile::ports(compiled.session.outputs())?.into();
        state.compiled = Some(compiled);
        state.largest_bytes = 0;
        Ok(())
    }

    /// Whether no run since it was compiled had a larger value than this one of `base_bytes`.
    pub(super) fn is_largest(&self, base_bytes: u64) -> bool {
        let mut state = self.lock();
        let is_largest = base_bytes >= state.largest_bytes;
        state.largest_bytes = state.largest_bytes.max(base_bytes);
        is_largest
    }

    /// How it stands, without waiting for a run.
    pub(super) fn standing(&self) -> Standing {
        match self.state.try_lock() {
            Ok(state) if state.compiled.is_none() => Standing::Absent,
            Ok(state) => Standing::Ready(state.used),
            Err(TryLockError::WouldBlock) => Standing::Running,
            Err(TryLockError::Poisoned(state)) => {
                let state = state.into_inner();
                if state.compiled.is_none() { Standing::Absent } else { Standing::Ready(state.used) }
            }
        }
    }

    /// Gives the compiled graph up unless it runs; the next run compiles it again. Whether there was one.
    pub fn release(&self) -> bool {
        self.release_counted().is_some()
    }

    /// [`Session::release`], with the bytes that its runs had left behind, as far as the library counts them.
    pub(super) fn release_counted(&self) -> Option<u64> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let compiled = state.compiled.take()?;
        let target = (self.context.options.provider, self.context.options.device);
        Some(peak::taken_bytes(&compiled.session, target).unwrap_or(0))
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
        let target = (self.context.options.provider, self.context.options.device);
        let weights = check::weights(&self.name, &self.slots, weights, target)?;
        let mut state = self.lock();
        control.cancel.check()?;
        self.compiled(&mut state)?;
        let State { compiled: Some(compiled), outputs, used, .. } = &mut *state else {
            return Err(EngineError::Onnx { what: "preparing a run", answer: "nothing is compiled".to_owned() });
        };
        let inputs = check::inputs(&self.inputs, inputs)?;
        let given = Given { slots: &self.slots, weights, ports: &self.inputs, inputs, outputs };
        let outcome = run(compiled, &given, control, target);
        *used = Instant::now();
        outcome
    }
}

fn run(
    compiled: &mut Compiled,
    given: &Given<'_>,
    control: &Control,
    target: (crate::graph::Provider, i32),
) -> Result<Outcome, EngineError> {
    let options = Arc::new(RunOptions::new().map_err(EngineError::onnx("preparing a run"))?);
    let _watch = control.cancel.watch(&options)?;
    let before = peak::taken_bytes(&compiled.session, target);
    let Compiled { session, places } = compiled;
    let outcome = binding::run(session, places, given, &options);
    // a run that was told to stop ends with an error of the library's own
    let outputs = outcome.map_err(|error| match error {
        EngineError::Onnx { .. } if control.cancel.is_cancelled() => EngineError::Cancelled,
        EngineError::Onnx { what, answer } => {
            let taken = peak::taken_bytes(session, target).unwrap_or(0);
            allocation::refused(&answer, taken).unwrap_or(EngineError::Onnx { what, answer })
        }
        error => error,
    })?;
    let peak_bytes = peak::taken_bytes(session, target).filter(|bytes| before.is_none_or(|before| *bytes > before));
    Ok(Outcome { outputs, peak_bytes })
}
