//! A component's memory on a device, open to other processes for as long as a lease lives.

use std::{os::fd::OwnedFd, sync::atomic::Ordering};

use engine::CudaShare;
use shared::ids::ComponentId;

use super::{
    DeviceTensor, Runner, RunnerError, RunnerState,
    protocol::{Command, Done},
    request::Heard,
};

/// What other processes get. The memory stays while the lease lives and the runner's process does.
#[derive(Debug)]
pub struct DeviceShare {
    /// Digest of the content.
    pub digest: String,
    /// Bytes of the slab.
    pub bytes: u64,
    /// Tensors, offsets relative to the slab's first byte.
    pub tensors: Vec<DeviceTensor>,
    /// For a CUDA device.
    pub cuda: Option<CudaShare>,
    /// For other devices: a sealed memory file.
    pub memory: Option<OwnedFd>,
    /// The lease.
    pub lease: DeviceLease,
}

/// Keeps a component on its device. Dropping it gives the component back.
#[derive(Debug)]
pub struct DeviceLease {
    runner: Runner,
    component: ComponentId,
    number: u64,
    /// The process that holds the memory.
    pid: Option<u32>,
}

impl DeviceLease {
    /// Returns when the process that holds the memory is gone, and the memory with it.
    pub async fn lost(&self) {
        let mut status = self.runner.status();
        let mine = self.pid;
        // an error means that the supervisor is gone, and the process with it
        let _ = status.wait_for(|status| status.pid != mine || status.state != RunnerState::Ready).await;
    }
}

impl Drop for DeviceLease {
    fn drop(&mut self) {
        let (runner, component, lease) = (self.runner.clone(), self.component, self.number);
        self.runner.tasks.spawn("unshare", async move {
            let command = Box::new(move |call| Command::Unshare { call, component, lease });
            // a runner that is gone has no lease any more
            if let Ok(sent) = runner.send(command, None, Heard::default()).await {
                let _ = sent.answer.await;
            }
        });
    }
}

impl Runner {
    /// Opens a component's memory to other processes.
    ///
    /// # Errors
    /// [`RunnerError::NotResident`] and others.
    pub async fn share(&self, component: ComponentId) -> Result<DeviceShare, RunnerError> {
        // numbers are never used again, so that a lease of a process that died is none of the next one's
        let number = self.lease_numbers.fetch_add(1, Ordering::Relaxed);
        self.ready().await?;
        let pid = self.status.borrow().pid;
        // made before the command, so that a caller that goes away leaves no lease behind
        let lease = DeviceLease { runner: self.clone(), component, number, pid };
        let command = Box::new(move |call| Command::Share { call, component, lease: number });
        let sent = self.send(command, None, Heard::default()).await?;
        match self.answered(sent.answer.await)? {
            Done::Shared(copy) => Ok(DeviceShare {
                digest: copy.digest,
                bytes: copy.bytes,
                tensors: copy.tensors,
                cuda: copy.cuda,
                memory: copy.memory,
                lease,
            }),
            other => Err(self.unexpected(&other)),
        }
    }
}
