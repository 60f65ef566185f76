//! The handle through which executors use a runner.

use std::{
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use shared::{ids::ComponentId, shutdown::Tasks};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    DeviceTensor, RunPreview, RunnerConfig, RunnerError, RunnerState, RunnerStatus, Views,
    protocol::{Command, Done, Step},
    request::{Heard, MakeCommand, Patience, Request, Ticket, Unwanted},
    supervisor,
};

/// How long a command waits for a runner that is being started again.
const READY_PATIENCE: Duration = Duration::from_secs(10);
/// How long a cancelled copy may take to stop before its process is killed.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// Requests that may wait for the supervisor.
const QUEUE: usize = 32;

/// A component to copy to the device.
#[derive(Debug)]
pub struct DeviceLoad {
    /// The component.
    pub component: ComponentId,
    /// Digest of its content.
    pub digest: String,
    /// Its tensors.
    pub tensors: Vec<DeviceTensor>,
    /// The sealed memory file that holds it.
    pub source: OwnedFd,
    /// First byte in the memory file.
    pub offset: u64,
    /// Bytes to copy.
    pub bytes: u64,
}

/// A component on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceLoaded {
    /// Bytes that it takes, as the device measures them.
    pub bytes: u64,
    /// Seconds that the copy took; those in which it waited for its source are not counted.
    pub seconds: f64,
    /// True when the same content was there already.
    pub already: bool,
}

/// A runner of one device. Cheap to clone: clones are the same runner.
#[derive(Debug, Clone)]
pub struct Runner {
    device: Arc<str>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) status: watch::Receiver<RunnerStatus>,
    hold: Arc<watch::Sender<Option<String>>>,
    pub(super) tasks: Tasks,
    pub(super) lease_numbers: Arc<AtomicU64>,
}

impl Runner {
    /// Starts the process and keeps one running until the tasks stop. `views` tell how its device is after an end.
    pub fn supervise(config: RunnerConfig, views: Views, tasks: &Tasks) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let (publish, status) = watch::channel(RunnerStatus::new());
        let (hold, held) = watch::channel(None);
        let device = Arc::from(config.device.as_str());
        tasks.spawn("runner", supervisor::run(config, receiver, publish, (held, views), tasks.token().clone()));
        Self { device, requests, status, hold: Arc::new(hold), tasks: tasks.clone(), lease_numbers: Arc::default() }
    }

    /// What is known of it; changes with every event.
    pub fn status(&self) -> watch::Receiver<RunnerStatus> {
        self.status.clone()
    }

    /// Copies a component to the device; `progress` hears the bytes copied so far. On return the status shows it.
    /// Dropping the future asks the copy to stop.
    ///
    /// # Errors
    /// [`RunnerError`]; the device then holds what it held before, or nothing if the process died.
    pub async fn load(
        &self,
        load: DeviceLoad,
        progress: impl Fn(u64) + Send + Sync,
        cancel: &CancellationToken,
    ) -> Result<DeviceLoaded, RunnerError> {
        let DeviceLoad { component, digest, tensors, source, offset, bytes } = load;
        let command = Box::new(move |call| Command::Load { call, component, digest, tensors, offset, bytes });
        let told = |step| match step {
            Step::Copied(bytes) => progress(bytes),
            Step::Stopping | Step::At(_) => {}
        };
        let report = watch::channel(Step::Copied(0));
        let patience = Patience { cancel, hurry: None, grace: CANCEL_GRACE };
        match self.carried_out(command, Some(source), report, (told, None), patience).await? {
            Done::Loaded { bytes, seconds, already } => Ok(DeviceLoaded { bytes, seconds, already }),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has a command carried out that takes long: `told` hears how far it is, a cancel is passed on, and a process that does
    /// not heed it in time is killed. Dropping the future asks the command to stop.
    pub(super) async fn carried_out(
        &self,
        command: MakeCommand,
        fd: Option<OwnedFd>,
        (report, mut reported): (watch::Sender<Step>, watch::Receiver<Step>),
        (told, previews): (impl Fn(Step), Option<mpsc::Sender<RunPreview>>),
        patience: Patience<'_>,
    ) -> Result<Done, RunnerError> {
        let sent = tokio::select! {
            biased;
            () = patience.cancel.cancelled() => return Err(self.cancelled()),
            sent = self.send(command, fd, Heard { progress: Some(report), previews }) => sent?,
        };
        // a caller that is dropped wants it no more
        let mut unwanted = Unwanted { requests: self.requests.clone(), ticket: Some(sent.ticket.clone()) };
        let mut answer = std::pin::pin!(sent.answer);
        loop {
            tokio::select! {
                biased;
                Ok(()) = reported.changed() => {
                    let step = *reported.borrow_and_update();
                    told(step);
                }
                answer = &mut answer => {
                    unwanted.ticket = None;
                    return self.answered(answer);
                }
                () = patience.cancel.cancelled() => {
                    unwanted.ticket = None;
                    return self.abort(sent.ticket, reported, answer.as_mut(), patience).await;
                }
            }
        }
    }

    /// Asks a command to stop and kills the process that does not.
    async fn abort(
        &self,
        ticket: Ticket,
        mut reported: watch::Receiver<Step>,
        mut answer: Pin<&mut Answer>,
        patience: Patience<'_>,
    ) -> Result<Done, RunnerError> {
        let asked = Instant::now();
        // a supervisor that is gone answers through `answer`
        let _ = self.requests.send(Request::Cancel(ticket)).await;
        let stopping = async {
            tokio::select! {
                biased;
                answer = answer.as_mut() => Some(answer),
                // it has ended; only its memory is still on its way back
                Ok(_) = reported.wait_for(|step| *step == Step::Stopping) => None,
            }
        };
        let stopped = tokio::select! {
            biased;
            stopped = stopping => Some(stopped),
            () = patience.is_over() => None,
        };
        match stopped {
            Some(Some(answer)) => return self.answered(answer),
            Some(None) => return self.answered(answer.await),
            None => {}
        }
        let why = format!("cancelled work did not stop within {} s", asked.elapsed().as_secs());
        let _ = self.requests.send(Request::Kill(why)).await;
        // its memory is back when the process is gone, which the supervisor reports to whoever waits
        match self.answered(answer.await) {
            Err(RunnerError::Crashed { .. }) => Err(self.cancelled()),
            other => other,
        }
    }

    fn cancelled(&self) -> RunnerError {
        RunnerError::Cancelled { device: self.device.to_string() }
    }

    /// Frees a component; on return its bytes are back. Returns how many they were.
    ///
    /// # Errors
    /// [`RunnerError`].
    pub async fn unload(&self, component: ComponentId) -> Result<u64, RunnerError> {
        let call = self.send(Box::new(move |call| Command::Unload { call, component }), None, Heard::default()).await?;
        match self.answered(call.answer.await)? {
            Done::Unloaded { bytes } => Ok(bytes),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Reads a component back from the device and returns the digest of what is there.
    ///
    /// # Errors
    /// [`RunnerError`].
    pub async fn digest(&self, component: ComponentId) -> Result<String, RunnerError> {
        let call = self.send(Box::new(move |call| Command::Digest { call, component }), None, Heard::default()).await?;
        match self.answered(call.answer.await)? {
            Done::Digest { digest } => Ok(digest),
            other => Err(self.unexpected(&other)),
        }
    }

    /// With a reason: ends the process and starts no other while it holds. Without: starts one again.
    pub async fn hold(&self, reason: Option<String>) {
        self.hold.send_replace(reason.clone());
        if let Some(reason) = reason {
            self.recycle(reason).await;
        }
    }

    /// Ends the process; another one is started. Who waits for it is told that it crashed.
    pub async fn recycle(&self, reason: String) {
        // a supervisor that is gone has no process
        let _ = self.requests.send(Request::Kill(reason)).await;
    }

    /// Ends the process and starts no other.
    pub async fn stop(&self, grace: Duration) {
        let (done, ended) = oneshot::channel();
        if self.requests.send(Request::Stop { grace, done }).await.is_ok() {
            // an error means that the supervisor ended, and the process with it
            let _ = ended.await;
        }
    }

    pub(super) async fn send(
        &self,
        command: MakeCommand,
        fd: Option<OwnedFd>,
        heard: Heard,
    ) -> Result<Sent, RunnerError> {
        self.ready().await?;
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::default();
        let request = Request::Command { command, fd, heard, reply, ticket: ticket.clone() };
        self.requests.send(request).await.map_err(|_| self.gone())?;
        Ok(Sent { answer, ticket })
    }

    /// A runner that just died is back in a moment; waiting for it costs the job no attempt.
    pub(super) async fn ready(&self) -> Result<(), RunnerError> {
        let mut status = self.status.clone();
        let ready = status.wait_for(|status| status.state == RunnerState::Ready);
        match timeout(READY_PATIENCE, ready).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => {
                let reason = match &self.status.borrow().state {
                    RunnerState::Down { reason } => reason.clone(),
                    RunnerState::Starting | RunnerState::Ready => "it is still starting".to_owned(),
                };
                Err(RunnerError::Unavailable { device: self.device.to_string(), reason })
            }
        }
    }

    pub(super) fn answered(
        &self,
        answer: Result<Result<Done, RunnerError>, oneshot::error::RecvError>,
    ) -> Result<Done, RunnerError> {
        answer.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> RunnerError {
        RunnerError::Unavailable { device: self.device.to_string(), reason: "it was stopped".to_owned() }
    }

    pub(super) fn unexpected(&self, done: &Done) -> RunnerError {
        self.failed(format!("it answered another question: {done:?}"))
    }

    pub(super) fn failed(&self, message: String) -> RunnerError {
        RunnerError::Device { device: self.device.to_string(), message }
    }
}

type Answer = oneshot::Receiver<Result<Done, RunnerError>>;

pub(super) struct Sent {
    pub(super) answer: Answer,
    ticket: Ticket,
}
