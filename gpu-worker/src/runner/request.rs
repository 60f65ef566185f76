//! What handles ask of the supervisor.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    RunPreview, RunnerError,
    protocol::{Call, Command, Done, Step},
};

/// Makes a command once its number is known.
pub(super) type MakeCommand = Box<dyn FnOnce(Call) -> Command + Send>;

/// Who hears of a command before its answer.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// How far it is.
    pub(super) progress: Option<watch::Sender<Step>>,
    /// What it shows; one that comes while earlier ones wait is dropped.
    pub(super) previews: Option<mpsc::Sender<RunPreview>>,
}

/// Names a command for a later cancel, also before it has a number.
#[derive(Debug, Clone, Default)]
pub(super) struct Ticket(Arc<OnceLock<Call>>);

impl Ticket {
    /// The command has its number now. A ticket belongs to one command: a second number is ignored.
    pub(super) fn stamp(&self, call: Call) {
        let _ = self.0.set(call);
    }

    /// The command's number, once it has one.
    pub(super) fn call(&self) -> Option<Call> {
        self.0.get().copied()
    }
}

/// What handles ask for.
pub(super) enum Request {
    Command {
        command: MakeCommand,
        fd: Option<OwnedFd>,
        heard: Heard,
        reply: oneshot::Sender<Result<Done, RunnerError>>,
        ticket: Ticket,
    },
    Cancel(Ticket),
    Kill(String),
    Stop {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Command { .. } => "Command",
            Self::Cancel(_) => "Cancel",
            Self::Kill(_) => "Kill",
            Self::Stop { .. } => "Stop",
        })
    }
}

/// Cancels what a caller went away from, unless it was answered before.
pub(super) struct Unwanted {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) ticket: Option<Ticket>,
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // a full queue means that it runs to its end: a copy is then resident and can be evicted as any other
            let _ = self.requests.try_send(Request::Cancel(ticket));
        }
    }
}
