//! ONNX Runtime: the library, its one environment, and sessions by graph.
//!
//! A run goes: check every input and every weight → bind (no copies) → run, which another thread may stop → take the
//! outputs. The weights' memory is held from the first to the last of these steps.

mod binding;
mod check;
mod control;
mod environment;
mod estimate;
mod peak;
mod provider;
mod session;
mod value;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

pub use control::{Cancel, Control, Progress};
pub use estimate::{Estimator, Factor};
pub use session::{Outcome, Session};

use crate::{
    error::EngineError,
    graph::{Emitted, Provider},
};

/// How the runtime works.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Threads of one operator.
    pub threads: usize,
    /// Who runs the graphs.
    pub provider: Provider,
    /// The CUDA device's number.
    pub device: i32,
}

impl RuntimeOptions {
    /// The CPU with as many threads as it has cores.
    pub fn cpu(library: impl Into<PathBuf>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { library: library.into(), threads, provider: Provider::Cpu, device: 0 }
    }
}

/// Sessions over one library for one device.
#[derive(Debug)]
pub struct Runtime {
    environment: ort::environment::Environment,
    options: RuntimeOptions,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    estimator: Mutex<Estimator>,
}

impl Runtime {
    /// Loads the library (once per process) and makes ready.
    ///
    /// # Errors
    /// When the library is not there, is for another processor, or is too old.
    pub fn open(options: RuntimeOptions) -> Result<Self, EngineError> {
        let environment = environment::open(&options.library)?;
        Ok(Self { environment, options, sessions: Mutex::default(), estimator: Mutex::default() })
    }

    /// The options with which it was opened.
    pub fn options(&self) -> &RuntimeOptions {
        &self.options
    }

    /// The session for this graph, made if there is none.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn session(&self, emitted: &Emitted) -> Result<Arc<Session>, EngineError> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(&emitted.key) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(Session::new(&self.environment, &self.options, emitted)?);
        sessions.insert(emitted.key.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// How much memory a run of this graph takes, as a multiple of its largest value: measured, or supposed.
    pub fn memory_factor(&self, emitted: &Emitted) -> Factor {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner).factor(&emitted.key)
    }

    /// Corrects the estimator by a measured run whose largest value has `base_bytes`.
    pub fn learn_memory(&self, emitted: &Emitted, base_bytes: u64, peak_bytes: u64) {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner).learn(&emitted.key, base_bytes, peak_bytes);
    }

    /// What the estimator has learned, to be kept over a restart.
    pub fn estimator(&self) -> Estimator {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins with what an estimator had learned before.
    pub fn set_estimator(&self, estimator: Estimator) {
        *self.estimator.lock().unwrap_or_else(PoisonError::into_inner) = estimator;
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
