//! One component's way onto a device: read into RAM, and copied while it is read.
//!
//! Components of one disk are read one after the other, those of several disks beside each other ([`super::turns`]). What of one
//! is complete in RAM goes to the device while the rest is read, and the copy becomes resident when the bytes in RAM have been
//! verified; the next one is read meanwhile.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::pending,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::try_join_all;
use residency::{Arrival, Lease, LoadRequest, PlacedTensor, Unverified, policy::bandwidth::ReadFrom};
use shared::db::models::ComponentRow;
use tokio::sync::watch;

use super::{
    keep,
    landed::Landed,
    model::{self, unsigned},
    place::{Load, PlacedComponent},
    turns::{Held, Turns},
};
use crate::{
    device_tier::evict,
    error::WorkError,
    load_request,
    runner::{self, DeviceFollow, DeviceLoad, DeviceLoaded, DeviceTensor, RunnerError},
};

/// What is smaller is read in a moment, and goes to the device in one piece.
const FOLLOWED_MIN: u64 = 8 << 20;

/// A component in RAM, verified.
struct InRam {
    lease: Lease,
    /// It was there before.
    cached: bool,
    /// Goes after the lease.
    _held: Held,
}

/// What a copy is made of.
enum Source<'a> {
    Whole(&'a Lease),
    Coming(&'a Unverified, &'a watch::Receiver<runner::Landed>),
}

/// Memory that a component comes into, and how far it is.
type Coming = (Arc<Unverified>, watch::Receiver<Option<Arrival>>);

/// Why a copy that followed a load did not end.
enum Ended {
    Failed(WorkError),
    /// The load was given up, and the component came in another way.
    Elsewhere(InRam),
    /// It was somebody else's load of other content, and the one that is wanted runs now.
    Superseded,
}

impl Load<'_> {
    /// Brings all components to the device.
    pub(super) async fn all(&self) -> Result<Vec<PlacedComponent>, WorkError> {
        let disks = |row: &&ComponentRow| load_request::disks(row, self.inspection);
        let rows = || self.wanted.components.iter();
        let turns = Turns::new(rows().flat_map(|row| disks(&row)), &self.attempt.progress);
        let each = rows().zip(&self.landed).map(|(row, landed)| self.bring(row, disks(&row), &turns, landed));
        try_join_all(each).await
    }

    /// One of them, when its disks' turn has come. That to read ends when the bytes are in RAM.
    async fn bring(
        &self,
        row: &ComponentRow,
        disks: BTreeSet<u64>,
        turns: &Turns<'_>,
        landed: &Landed,
    ) -> Result<PlacedComponent, WorkError> {
        let _under_way = turns.under_way(&disks).await;
        let turn = turns.to_read(&disks).await;
        if self.attempt.cancel.is_cancelled() {
            return Err(WorkError::Cancelled);
        }
        if let Some((device, digest)) = self.on_device(row) {
            self.landed_elsewhere(row);
            keep::remember(self.agent, row.id, self.keep)?;
            return Ok(PlacedComponent { id: row.id, kind: row.kind.clone(), digest, from: "device", device });
        }
        let request = model::request(self.agent, self.attempt, row, self.inspection)?;
        let (key, from) = (request.key.clone(), request.read_from());
        let acquiring = pin!(async {
            let got = self.acquire(row, request, turns, landed).await;
            drop(turn);
            got
        });
        let (got, device) = self.move_on(row, acquiring, &key, &from).await?;
        let (digest, from) = (got.lease.digest().to_string(), if got.cached { "ram" } else { "disk" });
        Ok(PlacedComponent { id: row.id, kind: row.kind.clone(), digest, from, device })
    }

    /// Into RAM, with what the request says about keeping it there.
    async fn acquire(
        &self,
        row: &ComponentRow,
        request: LoadRequest,
        turns: &Turns<'_>,
        landed: &Landed,
    ) -> Result<InRam, WorkError> {
        let take = || model::acquire(self.agent, self.attempt, request.clone(), landed);
        let (lease, cached) = turns.with_room(&row.kind, take).await?;
        keep::apply(self.agent, &lease, self.keep)?;
        Ok(InRam { lease, cached, _held: turns.hold() })
    }

    /// From RAM to the device; beside the load that brings it there, if one runs.
    async fn move_on(
        &self,
        row: &ComponentRow,
        mut acquiring: Pin<&mut impl Future<Output = Result<InRam, WorkError>>>,
        key: &str,
        from: &[ReadFrom],
    ) -> Result<(InRam, DeviceLoaded), WorkError> {
        let mine = AtomicU64::new(0);
        let got = loop {
            let coming = tokio::select! {
                biased;
                got = acquiring.as_mut() => break got?,
                coming = self.coming(row, key) => coming,
            };
            match self.follow(row, acquiring.as_mut(), (key, coming), (from, &mine)).await {
                Ok(both) => return Ok(both),
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Elsewhere(got)) => break got,
                Err(Ended::Superseded) => {
                    tracing::info!(component = %row.id, "the load that was followed is of no use any more; the wanted one is followed from here on");
                }
            }
        };
        let device = self.copy(row, &Source::Whole(&got.lease), (from, &mine)).await?;
        Ok((got, device))
    }

    /// The memory that the component comes into, once some of it is there: its files were then found to be those that are
    /// wanted, and their disk answers. Never where the copy is not to begin before the load's end.
    async fn coming(&self, row: &ComponentRow, key: &str) -> Coming {
        // other content under this id may have to go first, and stays until the new one is verified
        let replaces = self.device.resident().iter().any(|copy| copy.component == row.id);
        if replaces || unsigned(row.bytes) < FOLLOWED_MIN {
            pending::<()>().await;
        }
        let mut changes = self.agent.tier.changes();
        loop {
            if let Some(arrivals) = self.agent.tier.arrival(key) {
                let memory = tokio::select! {
                    memory = begun(arrivals.clone()) => memory,
                    () = self.agent.tier.superseded(key, &arrivals) => None,
                };
                if let Some(memory) = memory {
                    return (memory, arrivals);
                }
            }
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Copies what has landed while the rest is read. What the device has is resident once the lease is of the same memory.
    async fn follow(
        &self,
        row: &ComponentRow,
        acquiring: Pin<&mut impl Future<Output = Result<InRam, WorkError>>>,
        (key, (memory, arrivals)): (&str, Coming),
        told: (&[ReadFrom], &AtomicU64),
    ) -> Result<(InRam, DeviceLoaded), Ended> {
        let (landed, seen) = watch::channel(runner::Landed::default());
        let load = arrivals.clone();
        let reading = async {
            let got = tokio::select! {
                biased;
                got = acquiring => got.map_err(Ended::Failed)?,
                () = self.agent.tier.superseded(key, &load) => return Err(Ended::Superseded),
                never = pass_on(arrivals, &landed) => match never {},
            };
            if !memory.became(&got.lease) {
                return Err(Ended::Elsewhere(got));
            }
            landed.send_replace(runner::Landed { bytes: memory.bytes(), digest: Some(got.lease.digest().to_string()) });
            Ok(got)
        };
        let source = Source::Coming(&memory, &seen);
        let copying = async { self.copy(row, &source, told).await.map_err(Ended::Failed) };
        // the load hears of a cancel before the copy ends for it, and what it fails for is the reason
        tokio::try_join!(biased; reading, copying)
    }

    /// Copies to the device; when it has no room, others of its components go first, by the policy. What was
    /// copied of it is counted once in `mine`, however often a copy begins anew.
    async fn copy(
        &self,
        row: &ComponentRow,
        source: &Source<'_>,
        (from, mine): (&[ReadFrom], &AtomicU64),
    ) -> Result<DeviceLoaded, WorkError> {
        self.note_placed(row.id);
        // a copy that is made again adds nothing before it is further than it was
        let copied = |bytes: u64| {
            let bytes = bytes.min(unsigned(row.bytes));
            let before = mine.fetch_max(bytes, Ordering::AcqRel);
            self.copied.fetch_add(bytes.saturating_sub(before), Ordering::AcqRel);
        };
        loop {
            let mut changes = self.device.tier.changes();
            match self.copy_once(row, source, &copied).await {
                Ok(loaded) => {
                    if !self.note_copied(row, &loaded, from) {
                        // a copy that was there already is being taken off just now: it has to be made again
                        let _ = changes.changed().await;
                        continue;
                    }
                    copied(unsigned(row.bytes));
                    self.agent.metrics.copied_bytes.inc_by(if loaded.already { 0 } else { loaded.bytes });
                    return Ok(loaded);
                }
                Err(WorkError::Runner(full @ RunnerError::OutOfMemory { .. })) => self.make_room(row, full).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn copy_once(
        &self,
        row: &ComponentRow,
        source: &Source<'_>,
        copied: &(impl Fn(u64) + Send + Sync),
    ) -> Result<DeviceLoaded, WorkError> {
        let (runner, cancel) = (&self.device.runner, &self.attempt.cancel);
        Ok(match source {
            Source::Whole(lease) => runner.load(device_load(row, lease)?, copied, cancel).await?,
            Source::Coming(memory, landed) => {
                runner.follow(device_follow(row, memory)?, (*landed).clone(), copied, cancel).await?
            }
        })
    }

    /// At least one byte: a device that has the bytes and still does not find them has them in pieces.
    async fn make_room(&self, row: &ComponentRow, full: RunnerError) -> Result<(), WorkError> {
        let need_bytes = match &full {
            RunnerError::OutOfMemory { needed_bytes, available_bytes, .. } => {
                needed_bytes.saturating_sub(*available_bytes).max(1)
            }
            _ => 1,
        };
        let wanted = (row.id, unsigned(row.bytes));
        let freed = evict::make_room(self.agent, self.device, wanted, need_bytes).await;
        // nothing was freed where every victim stays: it is tried again later, not at once
        freed.filter(|freed| *freed > 0).map(|_| ()).ok_or_else(|| full.into())
    }
}

/// The memory of a load once some of it is complete; none when it has ended before.
async fn begun(mut arrivals: watch::Receiver<Option<Arrival>>) -> Option<Arc<Unverified>> {
    let some = |arrival: &Option<Arrival>| arrival.as_ref().is_some_and(|arrival| arrival.complete_bytes > 0);
    let begun = arrivals.wait_for(some).await.ok()?;
    begun.as_ref().map(|arrival| arrival.memory.clone())
}

/// Says what has landed, as far as the load goes on.
async fn pass_on(mut arrivals: watch::Receiver<Option<Arrival>>, landed: &watch::Sender<runner::Landed>) -> Infallible {
    loop {
        let complete = arrivals.borrow_and_update().as_ref().map(|arrival| arrival.complete_bytes);
        if let Some(bytes) = complete {
            landed.send_modify(|landed| landed.bytes = bytes);
        }
        if arrivals.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

fn device_load(row: &ComponentRow, lease: &Lease) -> Result<DeviceLoad, WorkError> {
    Ok(DeviceLoad {
        component: row.id,
        digest: lease.digest().to_string(),
        tensors: tensors(lease.tensors()),
        source: opened(lease.fd_readonly())?,
        offset: lease.offset(),
        bytes: lease.bytes(),
    })
}

fn device_follow(row: &ComponentRow, memory: &Unverified) -> Result<DeviceFollow, WorkError> {
    Ok(DeviceFollow {
        component: row.id,
        tensors: tensors(memory.tensors()),
        source: opened(memory.fd_readonly())?,
        offset: 0,
        bytes: memory.bytes(),
    })
}

fn opened(memory: std::io::Result<OwnedFd>) -> Result<OwnedFd, WorkError> {
    memory.map_err(|source| WorkError::System { what: "opening a component's memory for the runner".into(), source })
}

fn tensors(placed: &[PlacedTensor]) -> Vec<DeviceTensor> {
    let tensor = |tensor: &PlacedTensor| DeviceTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        offset: tensor.offset,
        len: tensor.len,
    };
    placed.iter().map(tensor).collect()
}
