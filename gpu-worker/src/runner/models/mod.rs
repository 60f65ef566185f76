//! The worker of a real runner: models on ONNX Runtime, where there is one.

mod check;
mod generate;
mod graphs;
mod kept;
mod parts;
mod tensors;
mod text;
mod took;
mod unet;
mod vae;

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use engine::{
    Control, DeviceFacts, EngineError, Estimator, Learned, Runtime, RuntimeOptions,
    generate::{EmbeddingCache, GenerateError},
    onnx::{self, Search},
};
use shared::error::{ErrorBody, ErrorCode};

use self::{graphs::Graphs, took::Meter};
use super::{
    EngineFacts, Work,
    engine_thread::{Order, Outcome, RunFailure, Said, Tell, Worker},
    protocol::{RunPhase, RunStep, Step},
};

/// A compiled graph that has rested so long is given up, with the memory that its runs left behind.
const RESTED: Duration = Duration::from_secs(120);
/// Bytes of prompts' states that are kept: a chunk of SDXL's pair has 630 KB at one layer.
const CACHE_BYTES: usize = 64 << 20;

/// The engine of one device.
pub(super) struct Models {
    facts: EngineFacts,
    runtime: Option<Arc<Runtime>>,
    /// States of prompts that were encoded before.
    cache: EmbeddingCache,
    graphs: Graphs,
}

impl Models {
    /// Opens the library, if there is one. Without it the device still holds weights, and every run is refused.
    /// Estimates of memory begin with what earlier processes have learned.
    pub(super) fn open(
        device: &DeviceFacts,
        search: &Search,
        threads: Option<u16>,
        learned: BTreeMap<String, Learned>,
    ) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = threads.unwrap_or_else(|| u16::try_from(processors()).unwrap_or(u16::MAX));
        let mut onnxruntime = onnx::find(search);
        let library = onnxruntime.path.clone().filter(|_| onnxruntime.available);
        let options = library.map(|library| match device.kind.as_str() {
            "cuda" => RuntimeOptions::cuda(library, ordinal(&device.name)),
            _ => RuntimeOptions { threads: usize::from(threads), ..RuntimeOptions::cpu(library) },
        });
        let runtime = options.and_then(|options| match Runtime::open(options) {
            Ok(runtime) => {
                runtime.set_estimator(Estimator::with_factors(learned));
                Some(Arc::new(runtime))
            }
            Err(error) => {
                onnxruntime.available = false;
                onnxruntime.reason = Some(shared::error::chain(&error));
                None
            }
        });
        if let Some(reason) = &onnxruntime.reason {
            tracing::warn!(reason, "models cannot run here");
        }
        Self {
            facts: EngineFacts { onnxruntime, provider: device.kind.clone(), threads },
            runtime,
            cache: EmbeddingCache::new(CACHE_BYTES),
            graphs: Graphs::default(),
        }
    }
}

/// The number in `cuda:1`; 0 for the processor.
fn ordinal(device: &str) -> i32 {
    device.split_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

impl Worker for Models {
    fn facts(&self) -> EngineFacts {
        self.facts.clone()
    }

    fn run(&mut self, order: &Order, tell: &Tell) -> Result<Outcome, RunFailure> {
        let Some(runtime) = &self.runtime else {
            return Err(RunFailure::Work(no_library(self.facts.onnxruntime.reason.as_deref())));
        };
        let work: Work = serde_json::from_value(order.work.clone()).map_err(|error| {
            RunFailure::Work(ErrorBody::new(ErrorCode::Internal, format!("the run's work cannot be read: {error}")))
        })?;
        let bench = Bench { runtime, cache: &self.cache, graphs: &self.graphs, order, tell, meter: Arc::default() };
        match bench.carry_out(&work) {
            // memory that earlier runs left behind goes before anybody's weights do
            Err(RunFailure::NoRoom { needed_bytes, available_bytes }) => match runtime.regain() {
                0 => Err(RunFailure::NoRoom { needed_bytes, available_bytes }),
                bytes => {
                    order.aside.regained(bytes);
                    bench.carry_out(&work)
                }
            },
            ran => ran,
        }
    }

    fn learned(&self) -> BTreeMap<String, Learned> {
        self.runtime.as_ref().map(|runtime| runtime.estimator().factors().clone()).unwrap_or_default()
    }

    fn tidy(&mut self) {
        let given_up = self.runtime.as_ref().map_or(0, |runtime| runtime.release_idle(RESTED));
        if given_up > 0 {
            tracing::info!(given_up, "compiled graphs that nobody used were given up");
        }
    }
}

/// One run with what it works on.
struct Bench<'r> {
    runtime: &'r Arc<Runtime>,
    cache: &'r EmbeddingCache,
    graphs: &'r Graphs,
    order: &'r Order,
    tell: &'r Tell,
    /// What its graphs took so far.
    meter: Arc<Meter>,
}

impl Bench<'_> {
    fn carry_out(&self, work: &Work) -> Result<Outcome, RunFailure> {
        match work {
            Work::VaeDecode { vae, settings, format, limit_bytes } => {
                vae::decode(self, vae, settings, (*format, *limit_bytes))
            }
            Work::VaeEncode { vae, settings, sample, seed } => vae::encode(self, vae, settings, (*sample, *seed)),
            Work::UnetStep { unet, guidance_scale } => unet::step(self, unet, *guidance_scale),
            Work::EncodeText { encoders, text } => text::encode(self, encoders, text),
            Work::Forward { part } => check::forward(self, part),
            Work::Measure { part, operation, amount, settings, fresh } => {
                check::measure(self, part, (*operation, *amount), (settings, *fresh))
            }
            Work::Generate(work) => generate::run(self, work),
        }
    }

    /// Bytes that the run may take for itself.
    fn room(&self) -> u64 {
        self.order.aside.available()
    }

    /// Says how far the run is.
    fn at(&self, phase: RunPhase, done: u32, total: u32) {
        (self.tell)(Said::Step(Step::At(RunStep { phase, done, total })));
    }

    /// Cancelled when the run is, and heard by whoever waits for it.
    fn control(&self, phase: RunPhase) -> Control {
        let tell = self.tell.clone();
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let at = move |done, total| Step::At(RunStep { phase, done: small(done), total: small(total) });
        let progress = move |done, total| tell(Said::Step(at(done, total)));
        Control { progress: Some(Arc::new(progress)), ..self.silent() }
    }

    /// The same, without a word of how far it is. What each graph takes is set aside before it runs.
    fn silent(&self) -> Control {
        let aside = Arc::clone(&self.order.aside);
        let reserve = move |needed_bytes| {
            let set = aside.set(needed_bytes);
            set.map_err(|available_bytes| EngineError::OutOfMemory { needed_bytes, available_bytes })
        };
        let meter = Arc::clone(&self.meter);
        let note = move |took| meter.note(took);
        Control {
            cancel: self.order.cancel.clone(),
            progress: None,
            reserve: Some(Arc::new(reserve)),
            note: Some(Arc::new(note)),
        }
    }

    /// Whether the run is to go on: asked between the pictures and tensors that are worked on outside the library.
    fn go_on(&self) -> Result<(), EngineError> {
        self.order.cancel.check()
    }

    /// Sets aside what the estimate says, or refuses before anything is taken.
    fn must_fit(&self, needed_bytes: u64) -> Result<(), RunFailure> {
        let set = self.order.aside.set(needed_bytes);
        set.map_err(|available_bytes| RunFailure::NoRoom { needed_bytes, available_bytes })
    }

    /// A payload of the run.
    fn input(&self, name: &str) -> Result<&[u8], RunFailure> {
        let missing = || ErrorBody::new(ErrorCode::InvalidArgument, format!("the run was given no `{name}`"));
        self.order.payload.get(name).ok_or_else(|| RunFailure::Work(missing()))
    }
}

/// Nothing is wrong with the request, and it works once the host has the library.
fn no_library(reason: Option<&str>) -> ErrorBody {
    let hint = "name the library of ONNX Runtime with --onnxruntime of the host's agent";
    let message = format!("models cannot run on this host: {}", reason.unwrap_or("there is no ONNX Runtime library"));
    ErrorBody { hint: Some(hint.to_owned()), ..ErrorBody::new(ErrorCode::Precondition, message) }
}

impl From<GenerateError> for RunFailure {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Engine(error) => error.into(),
            other => Self::Work(ErrorBody::of(&other)),
        }
    }
}

impl From<EngineError> for RunFailure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Cancelled => Self::Cancelled,
            EngineError::OutOfMemory { needed_bytes, available_bytes } => {
                Self::NoRoom { needed_bytes, available_bytes }
            }
            other => Self::Work(ErrorBody::of(&other)),
        }
    }
}
