//! One runner process from start to end: commands in, answers out, silence and death noticed.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    process::Child,
    sync::{mpsc, oneshot, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Landed, Payload, RunPreview, RunnerConfig, RunnerError, RunnerState, RunnerStatus,
    channel::{self, Commands, Events, Frame},
    its_end, process,
    protocol::{Call, Command, Done, Event, Shown},
    request::{Heard, MakeCommand, Request, Ticket},
    supervisor::{down, update},
};

/// A process that says nothing for so long is hung. It speaks once a second and after each chunk.
const SILENCE: Duration = Duration::from_secs(10);
/// Opening a device may take long: a driver that was asleep wakes every device of the host.
const OPENING: Duration = Duration::from_secs(60);
/// A command that the process does not take for so long will not be taken.
const SENDING: Duration = Duration::from_secs(5);
/// How long callers wait for a killed process to be gone before they are told.
pub(crate) const DYING: Duration = Duration::from_secs(5);
/// Why a process is killed that does not.
const DEAF: &str = "it takes no commands";
/// Events that may wait for this task.
const EVENTS: usize = 64;

/// How a life ended.
pub(super) enum Ended {
    Died(String),
    Stopped,
}

/// A command that waits for its answer.
pub(super) struct Pending {
    reply: oneshot::Sender<Result<Done, RunnerError>>,
    heard: Heard,
}

/// One process.
pub(super) struct Life<'a> {
    config: &'a RunnerConfig,
    status: &'a watch::Sender<RunnerStatus>,
    child: Child,
    commands: Commands,
    pending: HashMap<Call, Pending>,
    next: Call,
}

impl<'a> Life<'a> {
    /// A process that was just started.
    pub(super) fn new(
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

    /// Lives with it until it dies or is told to stop.
    pub(super) async fn live(
        &mut self,
        events: Events,
        requests: &mut mpsc::Receiver<Request>,
        stop: &CancellationToken,
    ) -> Ended {
        let (sender, mut received) = mpsc::channel(EVENTS);
        let mut reading = std::pin::pin!(events.forward(sender));
        let mut reading_ended = false;
        let mut hung_at = tokio::time::Instant::now() + OPENING;
        loop {
            tokio::select! {
                biased;
                () = &mut reading, if !reading_ended => reading_ended = true,
                event = received.recv() => match event {
                    Some(event) => {
                        hung_at = tokio::time::Instant::now() + SILENCE;
                        self.heard(event);
                        if !self.stop_unheard().await {
                            return self.kill(DEAF).await;
                        }
                    }
                    None => return self.closed().await,
                },
                status = self.child.wait() => return self.died(process::how_it_ended(status)),
                () = sleep_until(hung_at) => return self.kill("it said nothing for too long").await,
                () = stop.cancelled() => return self.stop(Duration::ZERO).await,
                request = requests.recv() => match request {
                    Some(request) => if let Some(ended) = self.obey(request).await { return ended },
                    None => return self.stop(Duration::ZERO).await,
                },
            }
        }
    }

    async fn obey(&mut self, request: Request) -> Option<Ended> {
        let taken = match request {
            Request::Command { command, fd, heard, reply, ticket } => {
                self.command(command, fd, Pending { reply, heard }, &ticket).await
            }
            Request::Landed { ticket, landed: Landed { bytes, digest } } => {
                self.about(&ticket, |call| Command::Landed { call, bytes, digest }).await
            }
            Request::Cancel(ticket) => self.about(&ticket, |call| Command::Cancel { call }).await,
            Request::Kill(why) => return Some(self.kill(&why).await),
            Request::Stop { grace, done } => {
                let ended = self.stop(grace).await;
                // nobody waits any more: fine
                let _ = done.send(());
                return Some(ended);
            }
        };
        if taken { None } else { Some(self.kill(DEAF).await) }
    }

    async fn command(&mut self, command: MakeCommand, fd: Option<OwnedFd>, pending: Pending, ticket: &Ticket) -> bool {
        let call = self.next;
        self.next += 1;
        let framed = match channel::frame(&command(call), fd.is_some()) {
            Ok(framed) => framed,
            Err(error) => {
                let device = self.config.device.clone();
                // a caller that went away needs no answer
                let _ = pending.reply.send(Err(RunnerError::Unsendable { device, reason: error.to_string() }));
                return true;
            }
        };
        self.pending.insert(call, pending);
        ticket.stamp(call);
        self.send(&framed, fd.as_ref()).await
    }

    /// Says something about a command that is not answered yet.
    async fn about(&mut self, ticket: &Ticket, command: impl FnOnce(Call) -> Command) -> bool {
        match ticket.call().filter(|call| self.pending.contains_key(call)) {
            Some(call) => match channel::frame(&command(call), false) {
                Ok(framed) => self.send(&framed, None).await,
                Err(_) => false,
            },
            None => true,
        }
    }

    /// Has long work stop whose caller is gone. Callers say so themselves, but not where the queue is full just then; and a
    /// copy that follows a load would wait for the rest of it for ever.
    async fn stop_unheard(&mut self) -> bool {
        let is_unheard = |pending: &Pending| pending.heard.progress.is_some() && pending.reply.is_closed();
        let unheard: Vec<_> = self.pending.extract_if(|_, pending| is_unheard(pending)).map(|(call, _)| call).collect();
        for call in unheard {
            let taken = match channel::frame(&Command::Cancel { call }, false) {
                Ok(framed) => self.send(&framed, None).await,
                Err(_) => false,
            };
            if !taken {
                return false;
            }
        }
        true
    }

    /// False when the process does not take it: a command cut off in its middle leaves the socket unusable.
    async fn send(&mut self, framed: &Frame, fd: Option<&OwnedFd>) -> bool {
        match timeout(SENDING, self.commands.send_frame(framed, fd)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                // it died: the wait notices, says how, and answers whoever waits
                tracing::debug!(device = self.config.device, %error, "a command did not reach the runner");
                true
            }
            Err(_) => false,
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Hello { facts, engine } => update(self.status, |status| {
                status.engine = Some(engine);
                status.memory.capacity_bytes = facts.capacity_bytes;
                status.facts = Some(facts);
                status.state = RunnerState::Ready;
                status.ready_since = Some(Instant::now());
            }),
            Event::Status { memory, rss_bytes, resident } => self.status(|status| {
                status.memory = memory;
                status.rss_bytes = rss_bytes;
                status.resident = resident;
            }),
            Event::Progress { call, step } => {
                if let Some(progress) = self.pending.get(&call).and_then(|pending| pending.heard.progress.as_ref()) {
                    progress.send_replace(step);
                }
            }
            Event::Learned { memory } => self.status(|status| status.learned = Arc::new(memory)),
            Event::Preview(shown) => self.shown(shown),
            Event::Done { call, done } => self.answer(call, Ok(done)),
            Event::Failed { call, failure } => {
                let error = RunnerError::of(&self.config.device, failure);
                self.answer(call, Err(error));
            }
        }
    }

    /// A preview that cannot be opened, or that nobody waits for, is not missed.
    fn shown(&self, shown: Shown) {
        let previews = self.pending.get(&shown.call).and_then(|pending| pending.heard.previews.as_ref());
        let Some(previews) = previews else { return };
        match Payload::open(shown.blobs, shown.memory.as_ref()) {
            Ok(pictures) => drop(previews.try_send(RunPreview { about: shown.about, pictures })),
            Err(error) => tracing::debug!(%error, "a preview cannot be opened"),
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

    /// Kills it. Whoever waits is told once it is gone, or after a while when even that takes long; no other process is
    /// started before it is gone, since it may hold the device.
    async fn kill(&mut self, why: &str) -> Ended {
        // it may have ended by itself in the meantime
        let _ = self.child.start_kill();
        match timeout(DYING, self.child.wait()).await {
            Ok(status) => self.died(format!("{why}; {}", process::how_it_ended(status))),
            Err(_) => {
                let ended = self.died(format!("{why}; killed, and not gone within {} s", DYING.as_secs()));
                let status = process::how_it_ended(self.child.wait().await);
                tracing::warn!(device = self.config.device, status, "the killed runner is gone at last");
                ended
            }
        }
    }

    /// The socket closed first; the process must follow.
    async fn closed(&mut self) -> Ended {
        match timeout(DYING, self.child.wait()).await {
            Ok(status) => self.died(process::how_it_ended(status)),
            Err(_) => self.kill("it closed its socket").await,
        }
    }

    fn died(&mut self, how: String) -> Ended {
        // the status must say so before anybody who waited goes on
        update(self.status, |status| down(status, &its_end(&how)));
        for (_, pending) in self.pending.drain() {
            let crashed = RunnerError::Crashed { device: self.config.device.clone(), how: how.clone() };
            // a caller that went away needs no answer
            let _ = pending.reply.send(Err(crashed));
        }
        Ended::Died(how)
    }

    async fn stop(&mut self, grace: Duration) -> Ended {
        let orderly = async {
            if self.commands.send(&Command::Stop, None).await.is_ok() {
                // how it ends does not matter any more
                let _ = self.child.wait().await;
            }
        };
        // what is left after the grace is killed below; a process that has ended cannot be killed again
        let _ = timeout(grace, orderly).await;
        let _ = self.child.start_kill();
        let _ = timeout(DYING, self.child.wait()).await;
        Ended::Stopped
    }
}
