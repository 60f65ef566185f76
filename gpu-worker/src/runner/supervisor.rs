//! The one task that owns a runner process: it starts it, routes commands and answers, notices its death, starts another.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::{
    process::Child,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    RunnerConfig, RunnerError, RunnerState, RunnerStatus,
    channel::{Commands, Events},
    process,
    protocol::{Call, Command, Done, Event, Failure},
};

/// A process that says nothing for so long is hung. It speaks once a second and after each chunk.
const SILENCE: Duration = Duration::from_secs(10);
/// First pause before another start; doubles up to the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);
/// A process that lived so long starts the pauses anew.
const LIVED_WELL: Duration = Duration::from_secs(30);
/// Events that may wait for this task.
const EVENTS: usize = 64;

/// Makes a command once its number is known.
pub(super) type MakeCommand = Box<dyn FnOnce(Call) -> Command + Send>;

/// Names a command for a later cancel, also before it has a number.
#[derive(Debug, Clone, Default)]
pub(super) struct Ticket(Arc<OnceLock<Call>>);

/// What handles ask for.
pub(super) enum Request {
    Command {
        command: MakeCommand,
        fd: Option<OwnedFd>,
        progress: Option<watch::Sender<u64>>,
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

struct Pending {
    reply: oneshot::Sender<Result<Done, RunnerError>>,
    progress: Option<watch::Sender<u64>>,
}

/// Supervises until `stop` is cancelled or somebody asks for it.
pub(super) async fn run(
    config: RunnerConfig,
    mut requests: mpsc::Receiver<Request>,
    status: watch::Sender<RunnerStatus>,
    stop: CancellationToken,
) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let began = Instant::now();
        let ended = match process::spawn(&config) {
            Ok((child, commands, events)) => {
                let mut life = Life::new(&config, &status, child, commands);
                life.live(events, &mut requests, &stop).await
            }
            Err(error) => Ended::Died(format!("it cannot be started: {error}")),
        };
        let Ended::Died(how) = ended else { return };
        tracing::error!(device = config.device, how, "the runner died; starting another");
        update(&status, |status| {
            status.state = RunnerState::Down { reason: how.clone() };
            status.pid = None;
            status.resident.clear();
            status.memory.used_bytes = 0;
            status.memory.system_bytes = 0;
            status.rss_bytes = 0;
            status.restarts_total += 1;
            status.last_exit = Some(how);
        });
        backoff = if began.elapsed() > LIVED_WELL { BACKOFF_FIRST } else { backoff };
        if rest(backoff, &mut requests, &config, &stop).await.is_break() {
            return;
        }
        backoff = (backoff * 2).min(BACKOFF_LONGEST);
    }
}

/// Waits between two processes; whoever asks meanwhile is told that there is none.
async fn rest(
    pause: Duration,
    requests: &mut mpsc::Receiver<Request>,
    config: &RunnerConfig,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    let until = tokio::time::Instant::now() + pause;
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return ControlFlow::Break(()),
            () = tokio::time::sleep_until(until) => return ControlFlow::Continue(()),
            request = requests.recv() => request,
        };
        match request {
            Some(Request::Command { reply, .. }) => {
                let reason = "it died and is being started again".to_owned();
                // a caller that went away needs no answer
                let _ = reply.send(Err(RunnerError::Unavailable { device: config.device.clone(), reason }));
            }
            Some(Request::Stop { done, .. }) => {
                let _ = done.send(());
                return ControlFlow::Break(());
            }
            Some(Request::Cancel(_) | Request::Kill(_)) => {}
            None => return ControlFlow::Break(()),
        }
    }
}

fn update(status: &watch::Sender<RunnerStatus>, change: impl FnOnce(&mut RunnerStatus)) {
    status.send_modify(|status| {
        change(status);
        status.generation += 1;
    });
}

enum Ended {
    Died(String),
    Stopped,
}

/// One process from start to end.
struct Life<'a> {
    config: &'a RunnerConfig,
    status: &'a watch::Sender<RunnerStatus>,
    child: Child,
    commands: Commands,
    pending: HashMap<Call, Pending>,
    next: Call,
}

impl<'a> Life<'a> {
    fn new(
        config: &'a RunnerConfig,
        status: &'a watch::Sender<RunnerStatus>,
        child: Child,
        commands: Commands,
    ) -> Self {
        update(status, |status| {
            status.state = RunnerState::Starting;
            status.pid = child.id();
        });
        Self { config, status, child, commands, pending: HashMap::new(), next: 1 }
    }

    async fn live(
        &mut self,
        events: Events,
        requests: &mut mpsc::Receiver<Request>,
        stop: &CancellationToken,
    ) -> Ended {
        let (sender, mut received) = mpsc::channel(EVENTS);
        let mut reading = std::pin::pin!(forward(events, sender));
        let mut heard = tokio::time::Instant::now();
        let mut reading_ended = false;
        loop {
            tokio::select! {
                biased;
                () = &mut reading, if !reading_ended => reading_ended = true,
                event = received.recv() => match event {
                    Some(event) => {
                        heard = tokio::time::Instant::now();
                        self.heard(event);
                    }
                    None => return self.died(None).await,
                },
                status = self.child.wait() => return self.died(Some(process::how_it_ended(status))).await,
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    return self.kill(&format!("it said nothing for {} s", SILENCE.as_secs())).await;
                }
                () = stop.cancelled() => return self.stop(Duration::ZERO).await,
                request = requests.recv() => match request {
                    Some(Request::Command { command, fd, progress, reply, ticket }) => {
                        self.send(command, fd, Pending { reply, progress }, &ticket).await;
                    }
                    Some(Request::Cancel(ticket)) => self.cancel(&ticket).await,
                    Some(Request::Kill(why)) => return self.kill(&why).await,
                    Some(Request::Stop { grace, done }) => {
                        let ended = self.stop(grace).await;
                        // nobody waits any more: fine
                        let _ = done.send(());
                        return ended;
                    }
                    None => return self.stop(Duration::ZERO).await,
                },
            }
        }
    }

    async fn send(&mut self, command: MakeCommand, fd: Option<OwnedFd>, pending: Pending, ticket: &Ticket) {
        let call = self.next;
        self.next += 1;
        self.pending.insert(call, pending);
        // the ticket belongs to this command alone
        let _ = ticket.0.set(call);
        if let Err(error) = self.commands.send(&command(call), fd.as_ref()).await {
            // its death is noticed by the wait; the pending command is answered there
            tracing::warn!(device = self.config.device, %error, "a command did not reach the runner");
        }
    }

    async fn cancel(&mut self, ticket: &Ticket) {
        let Some(call) = ticket.0.get().copied().filter(|call| self.pending.contains_key(call)) else { return };
        if let Err(error) = self.commands.send(&Command::Cancel { call }, None).await {
            tracing::warn!(device = self.config.device, %error, "a cancel did not reach the runner");
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Hello { facts } => update(self.status, |status| {
                status.memory.capacity_bytes = facts.capacity_bytes;
                status.facts = Some(facts);
                status.state = RunnerState::Ready;
            }),
            Event::Status { memory, health, rss_bytes, resident } => self.status(|status| {
                status.memory = memory;
                status.utilization_ratio = health.utilization_ratio;
                status.temperature_celsius = health.temperature_celsius;
                status.rss_bytes = rss_bytes;
                status.resident = resident;
            }),
            Event::Progress { call, bytes } => {
                if let Some(progress) = self.pending.get(&call).and_then(|pending| pending.progress.as_ref()) {
                    progress.send_replace(bytes);
                }
            }
            Event::Done { call, done } => self.answer(call, Ok(done)),
            Event::Failed { call, failure } => {
                let error = self.error_of(failure);
                self.answer(call, Err(error));
            }
        }
    }

    /// Publishes a status only when it says something new: a sign of life alone wakes nobody.
    fn status(&self, change: impl FnOnce(&mut RunnerStatus)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            let changed = *status != before;
            status.generation += u64::from(changed);
            changed
        });
    }

    fn answer(&mut self, call: Call, answer: Result<Done, RunnerError>) {
        if let Some(pending) = self.pending.remove(&call) {
            // a caller that went away needs no answer
            let _ = pending.reply.send(answer);
        }
    }

    fn error_of(&self, failure: Failure) -> RunnerError {
        let device = self.config.device.clone();
        match failure {
            Failure::OutOfMemory { needed_bytes, available_bytes, capacity_bytes, would_free_bytes } => {
                RunnerError::OutOfMemory { device, needed_bytes, available_bytes, capacity_bytes, would_free_bytes }
            }
            Failure::NotResident { component } => RunnerError::NotResident { device, component },
            Failure::Cancelled => RunnerError::Cancelled { device },
            Failure::Device { message } => RunnerError::Device { device, message },
        }
    }

    async fn kill(&mut self, why: &str) -> Ended {
        // it may have ended by itself in the meantime
        let _ = self.child.start_kill();
        let status = process::how_it_ended(self.child.wait().await);
        self.died(Some(format!("{why}; killed ({status})"))).await
    }

    async fn died(&mut self, how: Option<String>) -> Ended {
        let how = match how {
            Some(how) => how,
            // the socket closed first; the process must follow
            None => match tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await {
                Ok(status) => process::how_it_ended(status),
                Err(_) => {
                    let _ = self.child.start_kill();
                    format!("it closed its socket; killed ({})", process::how_it_ended(self.child.wait().await))
                }
            },
        };
        // the status must say so before anybody who waited goes on
        update(self.status, |status| {
            status.state = RunnerState::Down { reason: how.clone() };
            status.pid = None;
            status.resident.clear();
        });
        for (_, pending) in self.pending.drain() {
            let _ =
                pending.reply.send(Err(RunnerError::Crashed { device: self.config.device.clone(), how: how.clone() }));
        }
        Ended::Died(how)
    }

    async fn stop(&mut self, grace: Duration) -> Ended {
        if !grace.is_zero() && self.commands.send(&Command::Stop, None).await.is_ok() {
            let _ = tokio::time::timeout(grace, self.child.wait()).await;
        }
        // a process that has ended cannot be killed again
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        Ended::Stopped
    }
}

/// Reading is not cancel safe, so one future reads and hands over.
async fn forward(mut events: Events, sender: mpsc::Sender<Event>) {
    loop {
        match events.next().await {
            Ok(event) => {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the runner's socket ended");
                return;
            }
        }
    }
}
