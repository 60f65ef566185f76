//! What of a component is complete in RAM while the rest of it is still being read: for those who carry it on meanwhile.
//!
//! Nothing of it is verified: whoever follows an arrival shows nobody what came of it before the load has ended well and its
//! lease is of the same memory ([`Unverified::became`]). Until then the bytes may turn to zeros at any moment.

use std::{future::pending, io, os::fd::OwnedFd, sync::Arc};

use tokio::sync::watch;

use crate::{
    arena::Draft,
    layout::{Layout, PlacedTensor},
    tier::{Lease, RamTier},
};

/// How far a load has come.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Where the bytes arrive.
    pub memory: Arc<Unverified>,
    /// Bytes from the beginning of the memory that the load writes to no more.
    pub complete_bytes: u64,
}

/// The memory of a component that is being read.
#[derive(Debug)]
pub struct Unverified {
    memory: OwnedFd,
    arena: u64,
    layout: Arc<Layout>,
}

impl Unverified {
    /// Of a draft that is about to be filled.
    pub(crate) fn of(draft: &Draft, layout: &Arc<Layout>) -> io::Result<Self> {
        Ok(Self { memory: draft.fd_readonly()?, arena: draft.id(), layout: layout.clone() })
    }

    /// A read-only descriptor of the memory file, to be read with system calls: others still write to it, so it is nothing to
    /// map. The component begins at its first byte.
    ///
    /// # Errors
    /// What the system answers.
    pub fn fd_readonly(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    /// Its tensors by ascending offset.
    pub fn tensors(&self) -> &[PlacedTensor] {
        &self.layout.tensors
    }

    /// Bytes of memory that it will occupy, padding and rounding included.
    pub fn bytes(&self) -> u64 {
        self.layout.extent_bytes
    }

    /// Whether this lease is of this very memory, now whole, verified and sealed.
    pub fn became(&self, lease: &Lease) -> bool {
        lease.arena() == self.arena
    }
}

impl RamTier {
    /// Ends once another load of `key` runs than the one that `arrivals` are of, or none runs and what came is not held. It is for
    /// nobody who waits for `key` any more, and whoever follows it is to let go: no ledger counts it.
    pub async fn superseded(&self, key: &str, arrivals: &watch::Receiver<Option<Arrival>>) {
        let mut changes = self.changes();
        while self.arrival(key).map_or_else(|| self.holds(key), |now| now.same_channel(arrivals)) {
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }
}
