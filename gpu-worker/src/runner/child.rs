//! The runner process: one thread owns the device, another reads commands so that a cancel is seen while bytes move.

use std::{
    collections::HashSet,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use clap::Args;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use shared::telemetry::{self, LogFormat};

use super::{
    channel,
    copies::{Copies, CopyError, Incoming},
    protocol::{Call, Command, Done, EXIT_STICKY, Event, Failure},
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
    // the agent's death ends this process, whatever it is doing
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
        Ok(code) => code,
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(why: &str) -> ExitCode {
    tracing::error!(why, "the runner ends");
    ExitCode::FAILURE
}

#[derive(Debug, Clone, Default)]
struct Cancelled(Arc<Mutex<HashSet<Call>>>);

impl Cancelled {
    fn insert(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
    }

    fn contains(&self, call: Call) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&call)
    }

    fn forget(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&call);
    }
}

type Received = (Command, Option<std::os::fd::OwnedFd>);

fn serve(mut copies: Copies, mut socket: UnixStream) -> std::io::Result<ExitCode> {
    channel::send_event(&mut socket, &Event::Hello { facts: copies.device().facts().clone() })?;
    let cancelled = Cancelled::default();
    let (sender, commands) = sync_channel(QUEUE);
    let reader = (socket.try_clone()?, cancelled.clone());
    std::thread::Builder::new().name("commands".into()).spawn(move || read_commands(reader.0, &reader.1, &sender))?;
    let mut child = Child { socket, cancelled };
    child.status(&copies)?;
    loop {
        match next(&commands) {
            Ok(Some((Command::Stop, _))) | Err(()) => return Ok(ExitCode::SUCCESS),
            Ok(Some((command, fd))) => {
                if let Some(code) = child.obey(&mut copies, command, fd)? {
                    return Ok(code);
                }
            }
            Ok(None) => child.status(&copies)?,
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
            Ok(Some((Command::Cancel { call }, _))) => cancelled.insert(call),
            Ok(Some(received)) => {
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
    socket: UnixStream,
    cancelled: Cancelled,
}

impl Child {
    fn status(&mut self, copies: &Copies) -> std::io::Result<()> {
        let memory = match copies.device().memory() {
            Ok(memory) => memory,
            Err(error) => {
                tracing::warn!(error = %shared::error::chain(&error), "the device does not say how its memory stands");
                return Ok(());
            }
        };
        let event = Event::Status {
            memory,
            health: copies.device().health(),
            rss_bytes: memory::own_rss_bytes(),
            resident: copies.resident(),
        };
        channel::send_event(&mut self.socket, &event)
    }

    /// Carries out a command; an exit code when the process must end.
    fn obey(
        &mut self,
        copies: &mut Copies,
        command: Command,
        fd: Option<std::os::fd::OwnedFd>,
    ) -> std::io::Result<Option<ExitCode>> {
        let (call, done) = match command {
            Command::Load { call, component, digest, tensors, offset, bytes } => match fd {
                Some(source) => {
                    (call, self.load(copies, call, Incoming { component, digest, tensors, source, offset, bytes }))
                }
                None => {
                    let message = "a load came without its memory file".to_owned();
                    (call, Err(CopyError::Failed(Failure::Device { message })))
                }
            },
            Command::Unload { call, component } => (call, copies.unload(component)),
            Command::Digest { call, component } => (call, copies.digest(component)),
            Command::Cancel { .. } | Command::Stop => return Ok(None),
        };
        self.cancelled.forget(call);
        self.answer(copies, call, done)
    }

    fn load(&mut self, copies: &mut Copies, call: Call, incoming: Incoming) -> Result<Done, CopyError> {
        let (socket, cancelled) = (&mut self.socket, &self.cancelled);
        let mut gone = false;
        let progress = |bytes| gone = gone || channel::send_event(socket, &Event::Progress { call, bytes }).is_err();
        copies.load(incoming, progress, || cancelled.contains(call))
    }

    fn answer(
        &mut self,
        copies: &Copies,
        call: Call,
        done: Result<Done, CopyError>,
    ) -> std::io::Result<Option<ExitCode>> {
        if let Err(CopyError::Sticky(why)) = done {
            tracing::error!(why, "the device answers nothing but errors any more");
            return Ok(Some(ExitCode::from(EXIT_STICKY)));
        }
        // what it changed is known before the caller goes on
        self.status(copies)?;
        let event = match done {
            Ok(done) => Event::Done { call, done },
            Err(CopyError::Failed(failure)) => Event::Failed { call, failure },
            Err(CopyError::Sticky(_)) => return Ok(Some(ExitCode::from(EXIT_STICKY))),
        };
        channel::send_event(&mut self.socket, &event)?;
        Ok(None)
    }
}
