//! ONNX Runtime: the library, its one environment, and sessions by graph.
//!
//! A run goes: check every input and every weight → bind (no copies) → run, which another thread may stop → take the
//! outputs. The weights' memory is held from the first to the last of these steps.

mod allocation;
mod binding;
mod cache;
mod check;
mod compile;
mod control;
mod environment;
mod estimate;
mod operators;
mod peak;
mod provider;
mod session;
mod value;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use control::{Cancel, Control, Note, Part, Progress, Reserve, Took};
pub use estimate::{Estimator, Factor, Learned};
pub use session::{Outcome, Session};

use self::cache::Cache;
use crate::{
    error::EngineError,
    graph::{Emitted, Provider},
    onnx,
    tensor::ElementType,
};

/// Compiled graphs that are kept when nobody says another number.
const MAX_SESSIONS: usize = 16;

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
    /// Graphs that are compiled at once; more, and the one that has rested longest is given up.
    pub max_sessions: usize,
}

impl RuntimeOptions {
    /// The CPU with as many threads as it has cores.
    pub fn cpu(library: impl Into<PathBuf>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let library = library.into();
        Self { library, threads, provider: Provider::Cpu, device: 0, max_sessions: MAX_SESSIONS }
    }

    /// The CUDA device of this number.
    pub fn cuda(library: impl Into<PathBuf>, device: i32) -> Self {
        Self { provider: Provider::Cuda, device, ..Self::cpu(library) }
    }
}

/// What every session of a runtime needs.
#[derive(Debug)]
struct Context {
    environment: ort::environment::Environment,
    options: RuntimeOptions,
    cache: Cache,
}

/// Sessions over one library for one device.
#[derive(Debug)]
pub struct Runtime {
    context: Arc<Context>,
    estimator: Mutex<Estimator>,
}

impl Runtime {
    /// Loads the library (once per process) and makes ready.
    ///
    /// # Errors
    /// When the library is not there, is for another processor, or is too old.
    pub fn open(options: RuntimeOptions) -> Result<Self, EngineError> {
        if options.provider == Provider::Cuda {
            provider::preload(&options.library);
        }
        let environment = environment::open(&options.library)?;
        let loop_of_ours = options.provider == Provider::Cpu && linear_kernel::is_preferred();
        tracing::debug!(loop_of_ours, threads = options.threads, "linear layers");
        let context = Arc::new(Context { environment, options, cache: Cache::default() });
        Ok(Self { context, estimator: Mutex::default() })
    }

    /// The options with which it was opened.
    pub fn options(&self) -> &RuntimeOptions {
        &self.context.options
    }

    /// The session for this graph, made if there is none, and compiled.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn session(&self, emitted: &Emitted) -> Result<Arc<Session>, EngineError> {
        let session = self.context.cache.ensure(&emitted.key, || Session::emitted(&self.context, emitted));
        if emitted.is_users {
            self.check_halves(&session)?;
        }
        session.ensure_compiled()?;
        Ok(session)
    }

    /// Refuses 16-bit graphs on the CPU with the version that runs them in a scalar loop.
    fn check_halves(&self, session: &Session) -> Result<(), EngineError> {
        let options = self.options();
        let version = onnx::version_of(&options.library);
        let slots = || session.slots().iter().map(|slot| slot.dtype);
        let has_halves =
            || session.inputs().iter().map(|port| port.dtype).chain(slots()).any(|dtype| dtype == ElementType::F16);
        if options.provider != Provider::Cpu || onnx::half_on_cpu(version.as_deref()) || !has_halves() {
            return Ok(());
        }
        let reason = format!("version {} is some 80 times slower on 16-bit graphs", version.unwrap_or_default());
        Err(EngineError::Library { path: Some(options.library.clone()), reason })
    }

    /// How much memory a run of this graph takes, as a multiple of its largest value: measured, or supposed.
    pub fn memory_factor(&self, emitted: &Emitted) -> Factor {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner).factor(&emitted.key)
    }

    /// Corrects the estimator by a run of the graph's session whose largest value has `base_bytes`. What a session has taken
    /// counts all its runs, so that only the largest of them is measured by it.
    pub fn learn_memory(&self, emitted: &Emitted, session: &Session, base_bytes: u64, peak_bytes: Option<u64>) {
        let is_largest = session.is_largest(base_bytes);
        let Some(peak_bytes) = peak_bytes.filter(|_| is_largest) else { return };
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

    /// How many graphs are compiled.
    pub fn session_count(&self) -> usize {
        self.context.cache.compiled()
    }

    /// Gives up compiled graphs that have rested this long, with the memory that they kept. How many.
    ///
    /// To be called now and then: nothing runs by itself here.
    pub fn release_idle(&self, rested: Duration) -> usize {
        self.context.cache.release_idle(rested).0
    }

    /// Gives up every compiled graph that does not run. The bytes of the device that are free again by it: those that the
    /// graphs' runs had taken from it, as far as the library counts them. None of the host's: no device's figures hold them.
    pub fn regain(&self) -> u64 {
        let (_, bytes) = self.context.cache.release_idle(Duration::ZERO);
        if self.options().provider == Provider::Cuda { bytes } else { 0 }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // sessions know their runtime's context, which knows the sessions
        self.context.cache.clear();
    }
}
