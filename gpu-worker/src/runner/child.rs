//! The runner process: one thread owns the device, another reads commands so that a cancel is seen while bytes move.

use std::{
    collections::HashSet,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use clap::Args;
use engine::DeviceError;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use shared::{
    ids::ComponentId,
    telemetry::{self, LogFormat},
};

use super::{
    channel,
    copies::{Copies, CopyError, Incoming},
    protocol::{Call, Command, Done, EXIT_STICKY, Event, Failure, Step},
};
use crate::memory;

/// Time between signs of life.
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// Commands that may wait: the agent has one or two under way.
const QUEUE: usize = 64;

/// Arguments of the runner process. The socket is its standard input.
#[derive(Debug, Clone, Args)]
pub struct RunnerArgs {
    /// `cpu:0` or `cuda:N`.
    #[arg(long)]
    pub device: String,

    /// Bytes for weights; 0 for all that a CUDA device has.
    #[arg(long, default_value_t = 0)]
    pub memory: u64,

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
    match serve(Copies::new(device), socket) {
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

/// Which calls are to stop.
#[derive(Debug, Clone, Default)]
struct Cancelled(Arc<Mutex<Marks>>);

#[derive(Debug, Default)]
struct Marks {
    /// The process is to end: every call stops.
    all: bool,
    calls: HashSet<Call>,
}

impl Cancelled {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, call: Call) -> bool {
        let marks = self.marks();
        marks.all || marks.calls.contains(&call)
    }
}

type Received = (Command, Option<OwnedFd>);

/// Serves commands until told to stop.
pub(super) fn serve(copies: Copies, mut socket: UnixStream) -> Result<(), End> {
    channel::send_event(&mut socket, Event::Hello { facts: copies.device().facts().clone() })?;
    let cancelled = Cancelled::default();
    let (sender, commands) = sync_channel(QUEUE);
    let reader = (socket.try_clone()?, cancelled.clone());
    std::thread::Builder::new().name("commands".into()).spawn(move || read_commands(reader.0, &reader.1, &sender))?;
    let mut child = Child { copies, socket, cancelled };
    child.status()?;
    loop {
        match next(&commands) {
            Ok(Some((Command::Stop, _))) | Err(()) => return Ok(()),
            Ok(Some((command, fd))) => child.obey(command, fd)?,
            Ok(None) => child.status()?,
        }
    }
}

/// The next command; none when it is time for a sign of life.
fn next(commands: &Receiver<Received>) -> Result<Option<Received>, ()> {
    match commands.recv_timeout(STATUS_PERIOD) {
        Ok(received) => Ok(Some(received)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(()),
    }
}

fn read_commands(mut socket: UnixStream, cancelled: &Cancelled, commands: &SyncSender<Received>) {
    loop {
        match channel::receive(&mut socket) {
            Ok(Some((Command::Cancel { call }, _))) => {
                cancelled.marks().calls.insert(call);
            }
            Ok(Some(received)) => {
                if matches!(received.0, Command::Stop) {
                    cancelled.marks().all = true;
                }
                if commands.send(received).is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "the agent's command cannot be read");
                return;
            }
        }
    }
}

struct Child {
    copies: Copies,
    socket: UnixStream,
    cancelled: Cancelled,
}

impl Child {
    fn status(&mut self) -> Result<(), End> {
        let memory = match self.copies.device().memory() {
            Ok(memory) => memory,
            Err(error @ DeviceError::Sticky { .. }) => return Err(End::Sticky(error.to_string())),
            Err(error) => {
                tracing::warn!(error = %shared::error::chain(&error), "the device does not say how its memory stands");
                return Ok(());
            }
        };
        let event = Event::Status { memory, rss_bytes: memory::own_rss_bytes(), resident: self.copies.resident() };
        Ok(channel::send_event(&mut self.socket, event)?)
    }

    /// Carries out a command and answers it.
    fn obey(&mut self, command: Command, fd: Option<OwnedFd>) -> Result<(), End> {
        let (call, done) = match command {
            Command::Load { call, component, digest, tensors, offset, bytes } => {
                let incoming = fd.map(|source| Incoming { component, digest, tensors, source, offset, bytes });
                (call, self.load(call, incoming))
            }
            Command::Unload { call, component } => (call, self.copies.unload(component)),
            Command::Digest { call, component } => (call, self.digest(call, component)),
            Command::Share { call, component, lease } => (call, self.copies.share(component, lease)),
            Command::Unshare { call, component, lease } => (call, Ok(self.copies.unshare(component, lease))),
            Command::Cancel { .. } | Command::Stop => return Ok(()),
        };
        self.cancelled.marks().calls.remove(&call);
        self.answer(call, done)
    }

    fn load(&mut self, call: Call, incoming: Option<Incoming>) -> Result<Done, CopyError> {
        let Some(incoming) = incoming else {
            let message = "a load came without its memory file".to_owned();
            return Err(CopyError::Failed(Failure::Device { message }));
        };
        let progress = tell(&mut self.socket, call);
        self.copies.load(incoming, progress, || self.cancelled.contains(call))
    }

    fn digest(&mut self, call: Call, component: ComponentId) -> Result<Done, CopyError> {
        let alive = tell(&mut self.socket, call);
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
        Ok(channel::send_event(&mut self.socket, event)?)
    }
}

/// Tells the agent how far a call is, until the agent is gone: then the next answer ends the process.
fn tell(socket: &mut UnixStream, call: Call) -> impl FnMut(Step) {
    let mut gone = false;
    move |step| gone = gone || channel::send_event(socket, Event::Progress { call, step }).is_err()
}
