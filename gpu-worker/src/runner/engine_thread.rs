//! The thread of a runner on which models run, one run after the other, while commands are obeyed beside it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use engine::{Cancel, Learned};
use serde_json::Value;
use shared::error::{ErrorBody, ErrorCode};

use super::{
    EngineFacts,
    aside::RunAside,
    cancelled::Cancelled,
    payload::{self, Blob, Payload},
    protocol::{Call, Done, Event, Failure, RanFacts, Shown, Step},
    sheets::Layer,
    voice::Voice,
};

/// Time between looks at what has been idle for long.
const TIDY_PERIOD: Duration = Duration::from_secs(5);
/// Runs that may wait: a device has one or two jobs.
const QUEUE: usize = 16;

/// A component that takes part in a run. Its memory stays where it is while this lives.
#[derive(Debug)]
pub(super) struct Part {
    /// What the work calls it: `vae`, `unet`, `text_encoder`, …
    pub(super) slot: String,
    /// What its tensors are, all together; of a variant its key, which is made of its base's digest.
    pub(super) digest: String,
    /// What its tensors lie in; later ones stand for earlier ones of the same names, as a variant's for its base's.
    pub(super) layers: Vec<Layer>,
}

impl Part {
    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.view.bytes()).sum()
    }
}

/// A run, ready to begin.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) call: Call,
    pub(super) work: Value,
    pub(super) parts: Vec<Part>,
    pub(super) payload: Payload,
    pub(super) room: Room,
    /// What of the device's memory it has set aside for itself.
    pub(super) aside: Arc<RunAside>,
    pub(super) cancel: Cancel,
}

/// The device's memory when a run begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    pub(super) capacity_bytes: u64,
    /// Bytes of components that take no part in it.
    pub(super) would_free_bytes: u64,
}

/// What a run left.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) facts: Value,
    pub(super) blobs: Vec<Blob>,
}

/// Why a run left nothing.
#[derive(Debug)]
pub(super) enum RunFailure {
    /// It was told to stop.
    Cancelled,
    /// By the estimate it needs more memory than there is.
    NoRoom { needed_bytes: u64, available_bytes: u64 },
    /// Anything else, in the words that the job shows.
    Work(ErrorBody),
}

/// What a run says before its end.
#[derive(Debug)]
pub(super) enum Said {
    /// How far it is.
    Step(Step),
    /// What it will look like, and how that was made.
    Preview(Vec<Blob>, Value),
}

/// Hears what a run says.
pub(super) type Tell = Arc<dyn Fn(Said) + Send + Sync>;

/// Runs models. Made and used on one thread: sessions are not passed from thread to thread.
pub(super) trait Worker {
    /// What it can do.
    fn facts(&self) -> EngineFacts;

    /// Carries out an order; `tell` hears how far it is and what it shows.
    ///
    /// # Errors
    /// [`RunFailure`]; what was begun is given up.
    fn run(&mut self, order: &Order, tell: &Tell) -> Result<Outcome, RunFailure>;

    /// What runs have taught of the memory that graphs take.
    fn learned(&self) -> BTreeMap<String, Learned> {
        BTreeMap::new()
    }

    /// Gives back what has not been used for long.
    fn tidy(&mut self) {}
}

/// Makes a worker on its thread.
pub(super) type MakeWorker = Box<dyn FnOnce() -> Box<dyn Worker> + Send>;

/// The thread's handle.
pub(super) struct EngineThread {
    orders: SyncSender<Order>,
    idle: Idle,
}

/// How many orders are under way, for whoever waits until there are none.
#[derive(Clone, Default)]
pub(super) struct Idle(Arc<(Mutex<usize>, Condvar)>);

impl Idle {
    pub(super) fn change(&self, by: impl FnOnce(usize) -> usize) {
        let mut count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count = by(*count);
        self.0.1.notify_all();
    }

    pub(super) fn wait(&self, patience: Duration) -> bool {
        let count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(count, patience, |count| *count > 0);
        waited.map_or_else(|poisoned| *poisoned.into_inner().0 == 0, |(count, _)| *count == 0)
    }
}

impl EngineThread {
    /// Starts the thread; what its worker can do. Answers go out through `voice`.
    ///
    /// # Errors
    /// When the system refuses a thread, or making the worker panics.
    pub(super) fn start(make: MakeWorker, voice: Voice, cancelled: Cancelled) -> std::io::Result<(Self, EngineFacts)> {
        let ((orders, received), (tell, told)) = (sync_channel(QUEUE), sync_channel(1));
        let idle = Idle::default();
        let done = idle.clone();
        let work = move || {
            let worker = make();
            // whoever started the thread waits for it
            let _ = tell.send(worker.facts());
            serve(worker, &received, &voice, &cancelled, &done);
        };
        std::thread::Builder::new().name("engine".into()).spawn(work)?;
        let facts = told.recv().map_err(|_| std::io::Error::other("the engine's thread ended at its start"))?;
        Ok((Self { orders, idle }, facts))
    }

    /// Hands a run over; false when the thread is gone, or too many wait for it.
    pub(super) fn begin(&self, order: Order) -> bool {
        self.idle.change(|count| count + 1);
        let taken = self.orders.try_send(order).is_ok();
        if !taken {
            self.idle.change(|count| count.saturating_sub(1));
        }
        taken
    }

    /// Waits until nothing runs, at most so long.
    pub(super) fn wait_idle(&self, patience: Duration) -> bool {
        self.idle.wait(patience)
    }
}

fn serve(mut worker: Box<dyn Worker>, orders: &Receiver<Order>, voice: &Voice, cancelled: &Cancelled, idle: &Idle) {
    let (mut tidied, mut learned) = (Instant::now(), worker.learned());
    loop {
        match orders.recv_timeout(TIDY_PERIOD.saturating_sub(tidied.elapsed())) {
            Ok(order) => {
                let call = order.call;
                let event = carried_out(worker.as_mut(), order, voice);
                cancelled.forget(call);
                teach(worker.as_ref(), &mut learned, voice);
                // an agent that is gone is noticed where commands are read
                if let Err(error) = voice.say(event) {
                    tracing::debug!(call, %error, "the agent does not hear the answer of a run");
                }
                idle.change(|count| count.saturating_sub(1));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // also while one run follows the other: what they do not use is idle all the same
        if tidied.elapsed() >= TIDY_PERIOD {
            worker.tidy();
            tidied = Instant::now();
        }
    }
}

/// Says what the last run taught, before its answer: whoever has the answer finds it kept.
fn teach(worker: &dyn Worker, known: &mut BTreeMap<String, Learned>, voice: &Voice) {
    let learned = worker.learned();
    if learned == *known {
        return;
    }
    // an agent that is gone is noticed where commands are read
    if let Err(error) = voice.say(Event::Learned { memory: learned.clone() }) {
        tracing::debug!(%error, "the agent does not hear what a run has taught");
    }
    *known = learned;
}

/// Runs an order and says what came of it. Nothing holds the parts' memory any more on return.
fn carried_out(worker: &mut dyn Worker, order: Order, voice: &Voice) -> Event {
    let (call, room) = (order.call, order.room);
    let heard = voice.clone();
    let tell: Tell = Arc::new(move |said| {
        // as above
        let _ = event(call, said).map(|event| heard.say(event));
    });
    let ran = catch_unwind(AssertUnwindSafe(|| {
        if order.cancel.is_cancelled() {
            return Err(RunFailure::Cancelled);
        }
        worker.run(&order, &tell)
    }));
    drop(order);
    match ran.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))).and_then(packed) {
        Ok(done) => Event::Done { call, done },
        Err(failure) => Event::Failed { call, failure: failure.told(room) },
    }
}

/// None for a preview that has no memory to travel in: a run goes on without.
fn event(call: Call, said: Said) -> Option<Event> {
    match said {
        Said::Step(step) => Some(Event::Progress { call, step }),
        Said::Preview(blobs, about) => {
            let (blobs, memory) = payload::pack(&blobs).ok()?;
            Some(Event::Preview(Shown { call, about, blobs, memory }))
        }
    }
}

fn packed(outcome: Outcome) -> Result<Done, RunFailure> {
    let (blobs, memory) = payload::pack(&outcome.blobs).map_err(|error| {
        let message = format!("the result has no memory to travel in: {error}");
        RunFailure::Work(ErrorBody::new(ErrorCode::InsufficientCapacity, message))
    })?;
    Ok(Done::Ran(RanFacts { facts: outcome.facts, blobs, memory }))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> RunFailure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    RunFailure::Work(ErrorBody::new(ErrorCode::Internal, format!("the run panicked: {text}")))
}

impl RunFailure {
    fn told(self, room: Room) -> Failure {
        match self {
            Self::Cancelled => Failure::Cancelled,
            Self::NoRoom { needed_bytes, available_bytes } => Failure::OutOfMemory {
                needed_bytes,
                available_bytes,
                capacity_bytes: room.capacity_bytes,
                would_free_bytes: room.would_free_bytes,
            },
            Self::Work(error) => Failure::Work { error },
        }
    }
}
