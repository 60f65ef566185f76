//! The runner process: one thread owns the device, another reads commands so that a cancel is seen while bytes move, a third
//! one runs models.

use std::{
    num::NonZeroUsize,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use clap::Args;
use engine::{DeviceError, onnx::Search};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use shared::{
    ids::ComponentId,
    telemetry::{self, LogFormat},
};

use super::{
    ApplyOrder,
    cancelled::Cancelled,
    channel,
    copies::{Copies, CopyError, Incoming},
    engine_thread::{EngineThread, MakeWorker, Order, Worker},
    follow::{Coming, Follows, Landed},
    merge::Merged,
    merges::Merges,
    models::Models,
    payload::{BlobFacts, Payload},
    protocol::{Call, Command, Done, EXIT_STICKY, Event, Failure, RunPart, Step},
    variants::{Begun, Pending},
    voice::Voice,
};
use crate::memory;

/// Time between signs of life.
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// Commands that may wait: the agent has one or two under way.
const QUEUE: usize = 64;
/// How long a process that ends waits for a run to notice: a library that is unloaded under a run crashes.
const RUN_GRACE: Duration = Duration::from_secs(2);

/// Arguments of the runner process. The socket is its standard input.
#[derive(Debug, Clone, Args)]
pub struct RunnerArgs {
    /// `cpu:0` or `cuda:N`.
    #[arg(long)]
    pub device: String,

    /// Bytes for weights; 0 for all that a CUDA device has.
    #[arg(long, default_value_t = 0)]
    pub memory: u64,

    /// The ONNX Runtime library; looked for when absent.
    #[arg(long)]
    pub onnxruntime: Option<PathBuf>,

    /// Folder of a Python environment whose package `onnxruntime` may run the models.
    #[arg(long)]
    pub python: Option<PathBuf>,

    /// Threads of a run; as many as there are processors when absent.
    #[arg(long)]
    pub threads: Option<u16>,

    /// What earlier processes of this device learned of the memory of runs: a JSON object, by graph.
    #[arg(long)]
    pub learned: Option<String>,

    /// Log filter.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// The process's main.
pub fn run_child(args: RunnerArgs) -> ExitCode {
    // The agent's death ends this process, whatever it is doing. Strictly it is the death of the thread that started it:
    // the agent starts runners from its runtime's workers, which live as long as it does. An agent that died before this
    // line left a closed socket behind, which ends the process too.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || getppid().is_none() {
        return ExitCode::FAILURE;
    }
    if let Err(error) = telemetry::init(&args.log, LogFormat::Auto) {
        return refuse(&error.to_string());
    }
    let socket = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => UnixStream::from(socket),
        Err(error) => return refuse(&error.to_string()),
    };
    let device = match engine::open(&args.device, args.memory) {
        Ok(device) => device,
        Err(error) => return refuse(&shared::error::chain(&error)),
    };
    let facts = device.facts().clone();
    let search = Search { named: args.onnxruntime, python: args.python };
    let learned = match args.learned.as_deref().map(serde_json::from_str).transpose() {
        Ok(learned) => learned.unwrap_or_default(),
        Err(error) => return refuse(&format!("--learned: {error}")),
    };
    let make = move || -> Box<dyn Worker> { Box::new(Models::open(&facts, &search, args.threads, learned)) };
    match serve(Copies::new(device), Box::new(make), socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => {
            match &end {
                End::Socket(error) => tracing::error!(%error, "the runner ends"),
                End::Sticky(why) => tracing::error!(why, "the device answers nothing but errors any more"),
            }
            ExitCode::from(end.code())
        }
    }
}

fn refuse(why: &str) -> ExitCode {
    tracing::error!(why, "the runner ends");
    ExitCode::FAILURE
}

/// Why the process ends before it is told to.
#[derive(Debug)]
pub(super) enum End {
    /// The agent is gone or cannot be understood.
    Socket(std::io::Error),
    /// The device is lost to this process.
    Sticky(String),
}

impl End {
    /// The process's exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Socket(_) => 1,
            Self::Sticky(_) => EXIT_STICKY,
        }
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Socket(error)
    }
}

/// What the thread that owns the device hears.
pub(super) enum Heard {
    /// The agent wants something; a descriptor may come with it.
    Command(Command, Option<OwnedFd>),
    /// The merge of this call is through.
    Merged(Call, Merged),
    /// The agent is gone.
    End,
}

/// Serves commands until told to stop.
pub(super) fn serve(copies: Copies, make: MakeWorker, socket: UnixStream) -> Result<(), End> {
    let cancelled = Cancelled::default();
    let (sender, commands) = sync_channel(QUEUE);
    let (reader, merges) = ((socket.try_clone()?, cancelled.clone()), sender.clone());
    let voice = Voice::new(socket);
    let (runs, engine) = EngineThread::start(make, voice.clone(), cancelled.clone())?;
    let threads = NonZeroUsize::new(usize::from(engine.threads)).unwrap_or(NonZeroUsize::MIN);
    voice.say(Event::Hello { facts: copies.device().facts().clone(), engine })?;
    std::thread::Builder::new().name("commands".into()).spawn(move || read_commands(reader.0, &reader.1, &sender))?;
    let (follows, merges) = (Follows::default(), Merges::new(threads, merges));
    let mut child = Child { copies, follows, voice, cancelled, runs, merges };
    let ended = child.obey_all(&commands);
    child.cancelled.cancel_all();
    // nothing is heard any more: a merge does not wait for that
    drop(commands);
    if !child.runs.wait_idle(RUN_GRACE) || !child.merges.wait_idle(RUN_GRACE) {
        tracing::warn!("a run or a merge does not stop; the process ends under it");
    }
    ended
}

/// The next command; none when it is time for a sign of life.
fn next(commands: &Receiver<Heard>) -> Option<Heard> {
    match commands.recv_timeout(STATUS_PERIOD) {
        Ok(heard) => Some(heard),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Heard::End),
    }
}

fn read_commands(mut socket: UnixStream, cancelled: &Cancelled, commands: &SyncSender<Heard>) {
    loop {
        let heard = match channel::receive(&mut socket) {
            Ok(Some((Command::Cancel { call }, _))) => {
                cancelled.cancel(call);
                // wakes the thread that may wait for more to copy; one with a queue of commands looks after the next of them
                let _ = commands.try_send(Heard::Command(Command::Cancel { call }, None));
                continue;
            }
            Ok(Some((command, fd))) => {
                if matches!(command, Command::Stop) {
                    cancelled.cancel_all();
                }
                Heard::Command(command, fd)
            }
            Ok(None) => Heard::End,
            Err(error) => {
                tracing::error!(%error, "the agent's command cannot be read");
                Heard::End
            }
        };
        let last = matches!(heard, Heard::End);
        if commands.send(heard).is_err() || last {
            return;
        }
    }
}

struct Child {
    copies: Copies,
    follows: Follows,
    voice: Voice,
    cancelled: Cancelled,
    runs: EngineThread,
    merges: Merges,
}

impl Child {
    fn obey_all(&mut self, commands: &Receiver<Heard>) -> Result<(), End> {
        self.status()?;
        loop {
            match next(commands) {
                Some(Heard::End | Heard::Command(Command::Stop, _)) => return Ok(()),
                Some(Heard::Command(command, fd)) => self.obey(command, fd)?,
                Some(Heard::Merged(call, merged)) => {
                    if let Some(pending) = self.merges.ended(call) {
                        self.merged(call, *pending, merged)?;
                    }
                }
                None => self.status()?,
            }
            self.sweep()?;
        }
    }

    /// Ends the copies that wait for more and that nobody wants any more.
    fn sweep(&mut self) -> Result<(), End> {
        let voice = self.voice.clone();
        let swept = self.follows.sweep(&mut self.copies, |call, step| tell(&voice, call)(step));
        swept.into_iter().try_for_each(|(call, done)| {
            self.cancelled.forget(call);
            self.answer(call, done)
        })
    }

    fn status(&mut self) -> Result<(), End> {
        self.copies.free_late().map_err(|lost| End::Sticky(lost.to_string()))?;
        let memory = match self.copies.device().memory() {
            Ok(memory) => {
                self.copies.ledger().look(memory);
                memory
            }
            Err(error @ DeviceError::Sticky { .. }) => return Err(End::Sticky(error.to_string())),
            Err(error) => {
                tracing::warn!(error = %shared::error::chain(&error), "the device does not say how its memory stands");
                return Ok(());
            }
        };
        let event = Event::Status { memory, rss_bytes: memory::own_rss_bytes(), resident: self.copies.resident() };
        Ok(self.voice.say(event)?)
    }

    /// Carries out a command and answers it; a run, a merge, or a copy of what still comes is only begun.
    fn obey(&mut self, command: Command, fd: Option<OwnedFd>) -> Result<(), End> {
        let (call, done) = match command {
            Command::Load { call, component, digest, tensors, offset, bytes } => {
                let incoming = fd.map(|source| Incoming { component, digest, tensors, source, offset, bytes });
                (call, self.load(call, incoming))
            }
            Command::Follow { call, component, tensors, offset, bytes } => {
                let coming = fd.map(|source| Coming { component, tensors, source, offset, bytes });
                match self.follow(call, coming) {
                    // the room that it has taken is known at once
                    Ok(()) => return self.status(),
                    Err(error) => (call, Err(error)),
                }
            }
            Command::Landed { call, bytes, digest } => {
                let told = tell(&self.voice, call);
                match self.follows.landed(&mut self.copies, (call, Landed { bytes, digest }), told) {
                    Some(done) => (call, done),
                    None => return Ok(()),
                }
            }
            Command::Unload { call, component } => (call, self.copies.unload(component)),
            Command::Digest { call, component } => (call, self.digest(call, component)),
            Command::Share { call, component, lease } => (call, self.copies.share(component, lease)),
            Command::Unshare { call, component, lease } => (call, Ok(self.copies.unshare(component, lease))),
            Command::Run { call, work, parts, blobs } => match self.begin(call, work, parts, blobs, fd) {
                Ok(()) => return Ok(()),
                Err(error) => (call, Err(error)),
            },
            Command::Apply { call, order } => match self.apply(call, &order)? {
                Some(done) => (call, done),
                None => return Ok(()),
            },
            Command::Cancel { .. } | Command::Stop => return Ok(()),
        };
        self.cancelled.forget(call);
        self.answer(call, done)
    }

    /// Hands a run to the engine's thread, which answers it.
    fn begin(
        &mut self,
        call: Call,
        work: serde_json::Value,
        parts: Vec<RunPart>,
        blobs: Vec<BlobFacts>,
        fd: Option<OwnedFd>,
    ) -> Result<(), CopyError> {
        let device = |message: String| CopyError::Failed(Failure::Device { message });
        let payload = Payload::open(blobs, fd.as_ref())
            .map_err(|error| device(format!("the run's inputs cannot be read: {error}")))?;
        let parts = self.copies.parts(parts)?;
        let room = self.copies.room_for_run(&parts)?;
        let aside = Arc::new(self.copies.ledger().run());
        let order = Order { call, work, parts, payload, room, aside, cancel: self.cancelled.flag(call) };
        if self.runs.begin(order) {
            Ok(())
        } else {
            Err(device("the engine's thread is gone, or too many runs wait for it".to_owned()))
        }
    }

    /// Begins a merge; what came of it where it has ended already.
    fn apply(&mut self, call: Call, order: &ApplyOrder) -> Result<Option<Result<Done, CopyError>>, End> {
        let cancel = self.cancelled.flag(call);
        match self.copies.begin(order) {
            Ok(Begun::There(applied)) => Ok(Some(Ok(Done::Applied(applied)))),
            Ok(Begun::Merge(merge, pending)) => {
                match self.merges.begin(call, (merge, pending), cancel, tell(&self.voice, call)) {
                    None => Ok(self.status().map(|()| None)?),
                    Some((pending, merged)) => Ok(Some(self.copies.finish(*pending, merged).map(Done::Applied))),
                }
            }
            Err(error) => Ok(Some(Err(error))),
        }
    }

    /// Answers a merge that is through.
    fn merged(&mut self, call: Call, pending: Pending, merged: Merged) -> Result<(), End> {
        if merged.is_err() {
            // giving gigabytes back takes a moment
            tell(&self.voice, call)(Step::Stopping);
        }
        let done = self.copies.finish(pending, merged).map(Done::Applied);
        self.cancelled.forget(call);
        self.answer(call, done)
    }

    fn load(&mut self, call: Call, incoming: Option<Incoming>) -> Result<Done, CopyError> {
        let incoming = incoming.ok_or_else(no_memory)?;
        let (progress, stop) = (tell(&self.voice, call), self.cancelled.flag(call));
        self.copies.load(incoming, progress, || stop.is_cancelled())
    }

    fn follow(&mut self, call: Call, coming: Option<Coming>) -> Result<(), CopyError> {
        let coming = coming.ok_or_else(no_memory)?;
        let (told, stop) = (tell(&self.voice, call), self.cancelled.flag(call));
        self.follows.begin(&mut self.copies, (call, coming), stop, told)
    }

    fn digest(&mut self, call: Call, component: ComponentId) -> Result<Done, CopyError> {
        let alive = tell(&self.voice, call);
        self.copies.digest(component, alive)
    }

    fn answer(&mut self, call: Call, done: Result<Done, CopyError>) -> Result<(), End> {
        let event = match done {
            Ok(done) => Event::Done { call, done },
            Err(CopyError::Failed(failure)) => Event::Failed { call, failure },
            Err(CopyError::Sticky(why)) => return Err(End::Sticky(why)),
        };
        // what it changed is known before the caller goes on
        self.status()?;
        Ok(self.voice.say(event)?)
    }
}

fn no_memory() -> CopyError {
    let message = "a load came without its memory file".to_owned();
    CopyError::Failed(Failure::Device { message })
}

/// Tells the agent how far a call is, until the agent is gone: then the next answer ends the process.
fn tell(voice: &Voice, call: Call) -> impl FnMut(Step) + Send + use<> {
    let voice = voice.clone();
    let mut gone = false;
    move |step| gone = gone || voice.say(Event::Progress { call, step }).is_err()
}
