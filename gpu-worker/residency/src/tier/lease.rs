//! The guards: a lease on ready content, and a ticket of a caller that waits for it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Inner, flight::Outcome, table::hand_out};
use crate::{
    arena::{Extent, ReadMap},
    budget::Reservation,
    digest::Digest,
    entry::{Event, State},
    error::ResidencyError,
    layout::PlacedTensor,
    loader::ReadMode,
    request::Key,
};

/// Content in memory. Fields drop in this order: the bytes are back before the budget is.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) extent: Extent,
    pub(super) _reservation: Reservation,
    pub(super) tensors: Vec<PlacedTensor>,
    pub(super) digest: Digest,
    pub(super) tensor_bytes: u64,
    pub(super) modes: Vec<ReadMode>,
}

/// Use of a resident component: while it lives, the component stays. Keep it until every process that
/// got the descriptor has unmapped it.
#[derive(Debug)]
pub struct Lease {
    // Before `release`: the last lease must not hold the memory when the tier is told.
    content: Arc<Resident>,
    release: Release,
}

impl Lease {
    pub(super) fn new(content: Arc<Resident>, release: Release) -> Self {
        Self { content, release }
    }

    /// Says who uses it, for those who ask why it stays.
    pub fn mark(&self, holder: &str) {
        let Release { inner, key, id, lease } = &self.release;
        inner.mark(key, *id, *lease, holder.into());
    }

    /// The component.
    pub fn key(&self) -> &Key {
        &self.release.key
    }

    /// Its content digest, computed while it was read.
    pub fn digest(&self) -> Digest {
        self.content.digest
    }

    /// Bytes of memory that it occupies, padding and rounding included.
    pub fn bytes(&self) -> u64 {
        self.content.extent.len()
    }

    /// Bytes of its tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.content.tensor_bytes
    }

    /// Its tensors by ascending offset, relative to [`Lease::offset`].
    pub fn tensors(&self) -> &[PlacedTensor] {
        &self.content.tensors
    }

    /// Where the component begins in the memory file.
    pub fn offset(&self) -> u64 {
        self.content.extent.offset()
    }

    /// The number of its memory file in this tier.
    pub(crate) fn arena(&self) -> u64 {
        self.content.extent.id()
    }

    /// How each source file was read.
    pub fn read_modes(&self) -> &[ReadMode] {
        &self.content.modes
    }

    /// A read-only descriptor of the sealed memory file, to be passed to another process.
    ///
    /// # Errors
    /// What the system answers.
    pub fn fd_readonly(&self) -> io::Result<OwnedFd> {
        self.content.extent.fd_readonly()
    }

    /// The bytes, mapped in this process.
    ///
    /// # Errors
    /// What the system answers.
    pub fn map(&self) -> io::Result<ReadMap> {
        self.content.extent.map()
    }
}

/// Tells the tier that a lease ended.
#[derive(Debug)]
pub(super) struct Release {
    inner: Arc<Inner>,
    key: Key,
    id: u64,
    lease: u64,
}

impl Release {
    pub(super) fn new(inner: Arc<Inner>, key: Key, id: u64, lease: u64) -> Self {
        Self { inner, key, id, lease }
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.inner.release(&self.key, self.id, self.lease);
    }
}

/// A caller's place in a running load.
#[derive(Debug)]
pub(super) struct Ticket {
    inner: Arc<Inner>,
    key: Key,
    id: u64,
    done: watch::Receiver<Option<Outcome>>,
    /// What the caller gives up with. One that waits for several loads hears of it for the first and drops the others.
    cancel: CancellationToken,
    /// Its place became a lease.
    claimed: bool,
}

impl Ticket {
    pub(super) fn new(
        inner: Arc<Inner>,
        (key, id): (Key, u64),
        done: watch::Receiver<Option<Outcome>>,
        cancel: CancellationToken,
    ) -> Self {
        Self { inner, key, id, done, cancel, claimed: false }
    }

    /// Waits for the load's end and takes the lease. `None`: ask again.
    pub(super) async fn wait(mut self) -> Result<Option<Lease>, ResidencyError> {
        let outcome = tokio::select! {
            biased;
            outcome = self.done.wait_for(Option::is_some) => outcome.ok().and_then(|o| o.clone()),
            () = self.cancel.cancelled() => return Err(ResidencyError::Cancelled { key: self.key.clone() }),
        };
        outcome.unwrap_or_else(|| Err(ResidencyError::Aborted { key: self.key.clone() }))?;
        let lease = self.inner.claim(&self.key, self.id);
        self.claimed = lease.is_some();
        Ok(lease)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.claimed {
            self.inner.leave(&self.key, self.id, self.cancel.is_cancelled());
        }
    }
}

impl Inner {
    fn claim(self: &Arc<Self>, key: &Key, id: u64) -> Option<Lease> {
        let mut guard = self.table();
        let table = &mut *guard;
        let slot = table.slots.get_mut(key).filter(|slot| slot.id == id)?;
        let lease = hand_out(self, slot, &mut table.next_lease, Event::Claim, false).ok();
        drop(guard);
        self.bump();
        lease
    }

    /// A caller no longer waits; the last one to go with a cancel takes the load with it.
    fn leave(&self, key: &Key, id: u64, cancel: bool) {
        let mut table = self.table();
        if let Some(slot) = table.slots.get_mut(key).filter(|slot| slot.id == id) {
            let left = slot.apply(Event::Leave).is_ok();
            if left && cancel && slot.entry.waiters == 0 && slot.entry.state == State::Loading {
                slot.flight.cancel.cancel();
            }
        }
        drop(table);
        self.bump();
    }

    fn release(&self, key: &Key, id: u64, lease: u64) {
        let mut table = self.table();
        let now = self.now();
        let current = table.slots.get_mut(key).filter(|slot| slot.id == id);
        let freed = if let Some(slot) = current {
            let released = slot.apply(Event::Release);
            debug_assert!(released.is_ok(), "a lease of `{key}` was not counted");
            slot.used = now;
            slot.marks.remove(&lease);
            Vec::new()
        } else {
            if let Some(slot) = table.retired.iter_mut().find(|slot| slot.id == id) {
                let released = slot.apply(Event::Release);
                debug_assert!(released.is_ok(), "a lease of retired `{key}` was not counted");
                slot.marks.remove(&lease);
            }
            table.take_retired()
        };
        drop(table);
        self.free_retired(freed);
        self.bump();
    }
}
