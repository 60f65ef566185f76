//! The agent's side of a copy that begins before its source is whole.

use std::os::fd::OwnedFd;

use shared::ids::ComponentId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    DeviceLoaded, DeviceTensor, Runner, RunnerError,
    handle::CANCEL_GRACE,
    protocol::{Command, Done, Step},
    request::{Patience, Request, Ticket},
};

/// A component to copy to the device while it comes into memory.
#[derive(Debug)]
pub struct DeviceFollow {
    /// The component.
    pub component: ComponentId,
    /// Its tensors.
    pub tensors: Vec<DeviceTensor>,
    /// The memory file that it comes into; it need not be sealed.
    pub source: OwnedFd,
    /// First byte in the memory file.
    pub offset: u64,
    /// Bytes to copy.
    pub bytes: u64,
}

/// How far a source is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Landed {
    /// Bytes from its beginning that nobody writes to any more.
    pub bytes: u64,
    /// Its digest, once all of it is there and verified: nothing is resident before.
    pub digest: Option<String>,
}

impl Runner {
    /// Copies a component to the device, never beyond what has landed; `progress` hears the bytes copied so far. It ends once
    /// the digest has landed, and the status then shows it. Dropping the future asks the copy to stop.
    ///
    /// # Errors
    /// [`RunnerError`]; the device then holds what it held before, or nothing if the process died.
    pub async fn follow(
        &self,
        follow: DeviceFollow,
        landed: watch::Receiver<Landed>,
        progress: impl Fn(u64) + Send + Sync,
        cancel: &CancellationToken,
    ) -> Result<DeviceLoaded, RunnerError> {
        let DeviceFollow { component, tensors, source, offset, bytes } = follow;
        let ticket = Ticket::default();
        let stamped = ticket.clone();
        let command = Box::new(move |call| {
            stamped.stamp(call);
            Command::Follow { call, component, tensors, offset, bytes }
        });
        let told = |step| match step {
            Step::Copied(bytes) => progress(bytes),
            Step::Stopping | Step::At(_) => {}
        };
        let report = watch::channel(Step::Copied(0));
        let feeding = feed(self.requests.clone(), ticket, landed, report.0.subscribe());
        let patience = Patience { cancel, hurry: None, grace: CANCEL_GRACE };
        let copying = self.carried_out(command, Some(source), report, (told, None), patience);
        let done = tokio::select! {
            biased;
            done = copying => done?,
            // all is said; what is left is the answer
            never = feeding => match never {},
        };
        match done {
            Done::Loaded { bytes, seconds, already } => Ok(DeviceLoaded { bytes, seconds, already }),
            other => Err(self.unexpected(&other)),
        }
    }
}

/// Tells the runner what has landed, each time that it is through with what it was told before: messages do not pile up, and
/// what landed meanwhile goes in one piece.
async fn feed(
    requests: mpsc::Sender<Request>,
    ticket: Ticket,
    mut landed: watch::Receiver<Landed>,
    mut copied: watch::Receiver<Step>,
) -> std::convert::Infallible {
    // the first word of the runner: it has the command
    let mut heard = copied.changed().await.is_ok();
    let mut told = 0;
    while heard {
        let Ok(now) = landed.wait_for(|now| now.bytes > told || now.digest.is_some()).await.map(|now| now.clone())
        else {
            break;
        };
        told = now.bytes;
        let is_last = now.digest.is_some();
        // a supervisor that is gone answers through the command
        let _ = requests.send(Request::Landed { ticket: ticket.clone(), landed: now }).await;
        if is_last {
            break;
        }
        let through = |step: &Step| matches!(step, Step::Copied(bytes) if *bytes >= told);
        heard = copied.wait_for(through).await.is_ok();
    }
    std::future::pending().await
}
