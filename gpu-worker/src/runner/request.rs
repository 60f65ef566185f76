//! What handles ask of the supervisor.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Landed, RunPreview, RunnerError,
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

/// When a command is to stop, and how long it may take to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    /// Asks it to stop.
    pub(super) cancel: &'a CancellationToken,
    /// Once this is cancelled, too, it may take so long at most.
    pub(super) hurry: Option<(&'a CancellationToken, Duration)>,
    /// How long it may take to stop.
    pub(super) grace: Duration,
}

impl Patience<'_> {
    /// Resolves when a command that was asked to stop has had its time.
    pub(super) async fn is_over(self) {
        let hurried = async {
            match self.hurry {
                Some((hurry, grace)) => {
                    hurry.cancelled().await;
                    tokio::time::sleep(grace).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(self.grace) => {}
            () = hurried => {}
        }
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
    /// More of what a command copies has landed.
    Landed {
        ticket: Ticket,
        landed: Landed,
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
            Self::Landed { .. } => "Landed",
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
            // where the queue is full, the supervisor notices that nobody waits for the answer
            let _ = self.requests.try_send(Request::Cancel(ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_has_the_grace_of_a_cancel_until_its_lease_is_lost() {
        let (cancel, hurry) = (CancellationToken::new(), CancellationToken::new());
        let hour = Duration::from_secs(3600);
        let patience = Patience { cancel: &cancel, hurry: Some((&hurry, Duration::ZERO)), grace: hour };
        let mut over = std::pin::pin!(patience.is_over());
        assert!(futures::poll!(over.as_mut()).is_pending(), "a cancel alone leaves it time");
        hurry.cancel();
        over.await;
        Patience { hurry: None, grace: Duration::ZERO, ..patience }.is_over().await;
        let slow = Patience { hurry: Some((&hurry, hour)), grace: Duration::ZERO, ..patience };
        slow.is_over().await;
    }
}
