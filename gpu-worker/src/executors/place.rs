//! A model's components on a device: disk → RAM → device, the next component being read while one is copied.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model_formats::Inspection;
use residency::{Lease, policy::bandwidth::ReadFrom};
use shared::{db::models::ComponentRow, ids::ComponentId, job::Keep};

use super::{
    keep,
    load::watched,
    model::{self, Landed, Wanted, unsigned},
};
use crate::{
    context::{Agent, Device},
    device_tier::{DeviceLease, evict},
    error::WorkError,
    runner::{DeviceLoad, DeviceLoaded, DeviceResident, DeviceTensor, RunnerError},
    running::Attempt,
};

/// Components that are on a device and stay there while this lives.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) components: Vec<PlacedComponent>,
    /// By the id that each is held under there.
    leases: BTreeMap<ComponentId, DeviceLease>,
}

impl Placed {
    /// What loads computed, for the catalogue.
    pub(super) fn digests(&self) -> Vec<(ComponentId, String)> {
        self.components.iter().map(|placed| (placed.id, placed.digest.clone())).collect()
    }

    /// Bytes that this attempt copied to the device.
    pub(super) fn copied_bytes(&self) -> u64 {
        let copied = self.components.iter().filter(|placed| !placed.device.already);
        copied.map(|placed| placed.device.bytes).sum()
    }

    /// The id that the device holds a component under.
    pub(super) fn held(&self, agent: &Agent, component: ComponentId) -> Option<ComponentId> {
        self.leases.keys().copied().find(|held| agent.aliases.now(*held) == component)
    }
}

/// Makes the components resident on the device, in use by this attempt.
///
/// # Errors
/// What kept one of them away; then none that this attempt put there stays.
pub(super) async fn ensure(
    agent: &Arc<Agent>,
    attempt: &Attempt,
    device: &Device,
    (wanted, inspection): (&Wanted, &Inspection),
    keep: Keep,
) -> Result<Placed, WorkError> {
    let capacity_bytes = device.runner.status().borrow().memory.capacity_bytes;
    if capacity_bytes > 0 && wanted.bytes() > capacity_bytes {
        return Err(WorkError::TooBig { device: device.id.clone(), needed_bytes: wanted.bytes(), capacity_bytes });
    }
    let load = Load {
        agent,
        attempt,
        device,
        wanted,
        keep,
        inspection,
        landed: Arc::default(),
        copied: AtomicU64::new(0),
        spared: AtomicU64::new(0),
        placed: Mutex::default(),
        leases: Mutex::default(),
    };
    load.lease_present();
    // every byte is moved twice: into RAM, then to the device
    attempt.progress.enter("reading", wanted.bytes() * 2);
    let moved = watched(attempt, load.all(), || load.done_bytes()).await;
    match moved.and_then(|components| load.is_whole().map(|()| components)) {
        Ok(components) => {
            load.note_needs();
            let leases = std::mem::take(&mut *load.leases());
            Ok(Placed { components, leases })
        }
        Err(error) => {
            load.roll_back().await;
            Err(error)
        }
    }
}

struct Load<'a> {
    agent: &'a Arc<Agent>,
    attempt: &'a Attempt,
    device: &'a Device,
    wanted: &'a Wanted,
    /// What is said about the copies in RAM and on the device.
    keep: Keep,
    inspection: &'a Inspection,
    landed: Arc<Landed>,
    /// Bytes that went to the device; set by the one copy that is under way.
    copied: AtomicU64,
    /// Moves that were not needed: the bytes were there already.
    spared: AtomicU64,
    /// What this attempt puts on the device.
    placed: Mutex<Vec<ComponentId>>,
    /// What of the model is on the device, by the id that it is held under there: nothing takes it off while this goes on.
    leases: Mutex<BTreeMap<ComponentId, DeviceLease>>,
}

/// A component that is on the device.
#[derive(Debug)]
pub(super) struct PlacedComponent {
    pub(super) id: ComponentId,
    pub(super) kind: String,
    pub(super) digest: String,
    from: &'static str,
    pub(super) device: DeviceLoaded,
}

impl PlacedComponent {
    /// As the job's result shows it.
    pub(super) fn view(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "kind": self.kind, "bytes": self.device.bytes, "digest": self.digest, "from": self.from,
            "copy_seconds": self.device.seconds,
        })
    }
}

/// A component on its way: in RAM, or already on the device with the registered content.
enum Arrived {
    InRam { lease: Lease, cached: bool, read_from: Vec<ReadFrom> },
    OnDevice(DeviceLoaded, String),
}

impl Load<'_> {
    fn done_bytes(&self) -> u64 {
        self.landed.bytes() + self.copied.load(Ordering::Acquire) + self.spared.load(Ordering::Acquire)
    }

    async fn all(&self) -> Result<Vec<PlacedComponent>, WorkError> {
        let mut loaded = Vec::new();
        let mut rows = self.wanted.components.iter();
        let mut current = match rows.next() {
            Some(row) => Some((row, self.arrive(row).await?)),
            None => None,
        };
        while let Some((row, arrived)) = current {
            let next = rows.next();
            // the copy of this component and the read of the next one overlap
            let reading = async {
                match next {
                    Some(next) => Ok::<_, WorkError>(Some((next, self.arrive(next).await?))),
                    None => Ok(None),
                }
            };
            let (done, upcoming) = tokio::try_join!(self.place(row, arrived), reading)?;
            loaded.push(done);
            current = upcoming;
        }
        Ok(loaded)
    }

    async fn arrive(&self, row: &ComponentRow) -> Result<Arrived, WorkError> {
        if self.attempt.cancel.is_cancelled() {
            return Err(WorkError::Cancelled);
        }
        if let Some((resident, digest)) = self.on_device(row) {
            self.landed_elsewhere(row);
            keep::remember(self.agent, row.id, self.keep)?;
            return Ok(Arrived::OnDevice(resident, digest));
        }
        self.attempt.progress.detail(&row.kind);
        let request = model::request(self.agent, self.attempt, row, self.inspection, &self.landed)?;
        let read_from = request.read_from();
        let (lease, cached) = model::acquire(self.agent, self.attempt, request).await?;
        keep::apply(self.agent, &lease, self.keep)?;
        if cached {
            self.spared.fetch_add(unsigned(row.bytes), Ordering::AcqRel);
        }
        Ok(Arrived::InRam { lease, cached, read_from })
    }

    /// What the device holds already with the digest that the catalogue registered.
    fn on_device(&self, row: &ComponentRow) -> Option<(DeviceLoaded, String)> {
        let copies = self.device.resident();
        let resident = copies.iter().find(|copy| self.is(copy, row) && self.leases().contains_key(&copy.component))?;
        (row.digest.as_ref() == Some(&resident.digest))
            .then(|| (DeviceLoaded { bytes: resident.bytes, seconds: 0.0, already: true }, resident.digest.clone()))
    }

    /// Whether a copy on the device is of this component, under whatever id.
    fn is(&self, copy: &DeviceResident, row: &ComponentRow) -> bool {
        self.agent.aliases.now(copy.component) == row.id
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<ComponentId, DeviceLease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is there of the model into use, so that room for the rest is not made at its cost.
    fn lease_present(&self) {
        for copy in self.device.resident() {
            if self.wanted.components.iter().any(|row| self.is(&copy, row)) {
                self.lease(&copy);
            }
        }
    }

    /// False while the copy is being taken off.
    fn lease(&self, copy: &DeviceResident) -> bool {
        let lease = self.device.tier.lease(copy, &format!("job {}", self.attempt.id));
        let leased = lease.is_some();
        self.leases().extend(lease.map(|lease| (copy.component, lease)));
        leased
    }

    fn landed_elsewhere(&self, row: &ComponentRow) {
        self.spared.fetch_add(2 * unsigned(row.bytes), Ordering::AcqRel);
    }

    async fn place(&self, row: &ComponentRow, arrived: Arrived) -> Result<PlacedComponent, WorkError> {
        let (device, digest, from) = match arrived {
            Arrived::OnDevice(device, digest) => (device, digest, "device"),
            Arrived::InRam { lease, cached, read_from } => {
                let device = self.copy(row, &lease, &read_from).await?;
                (device, lease.digest().to_string(), if cached { "ram" } else { "disk" })
            }
        };
        Ok(PlacedComponent { id: row.id, kind: row.kind.clone(), digest, from, device })
    }

    /// Copies to the device; when it has no room, others of its components go first, by the policy.
    async fn copy(&self, row: &ComponentRow, lease: &Lease, from: &[ReadFrom]) -> Result<DeviceLoaded, WorkError> {
        self.note_placed(row.id);
        loop {
            let mut changes = self.device.tier.changes();
            let before = self.copied.load(Ordering::Acquire);
            let progress = |bytes| self.copied.store(before + bytes, Ordering::Release);
            let load = device_load(row, lease)?;
            match self.device.runner.load(load, progress, &self.attempt.cancel).await {
                Ok(loaded) => {
                    if !self.note_copied(row, &loaded, from) {
                        // a copy that was there already is being taken off just now: it has to be made again
                        let _ = changes.changed().await;
                        continue;
                    }
                    self.copied.store(before + unsigned(row.bytes), Ordering::Release);
                    self.agent.metrics.copied_bytes.inc_by(if loaded.already { 0 } else { loaded.bytes });
                    return Ok(loaded);
                }
                Err(full @ RunnerError::OutOfMemory { .. }) => self.make_room(row, full).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Leases the copy that arrived and remembers what it took; false when it is on its way off again.
    fn note_copied(&self, row: &ComponentRow, loaded: &DeviceLoaded, from: &[ReadFrom]) -> bool {
        let copies = self.device.resident();
        let Some(copy) = copies.iter().find(|copy| copy.component == row.id) else { return true };
        if !loaded.already {
            self.device.tier.copied(copy, from.to_vec(), Duration::from_secs_f64(loaded.seconds.max(0.0)));
            // one on an earlier copy, which went with its runner, holds nothing
            self.leases().remove(&copy.component);
        }
        self.leases().contains_key(&copy.component) || self.lease(copy)
    }

    /// Noted before the copy: one that is dropped when another component fails may have finished all the same.
    /// What the device held before is not this attempt's to take away.
    fn note_placed(&self, component: ComponentId) {
        let status = self.device.runner.status();
        let held = status.borrow().resident.iter().any(|resident| resident.component == component);
        if !held {
            self.placed.lock().unwrap_or_else(PoisonError::into_inner).push(component);
        }
    }

    /// A runner that was replaced between two components took the first ones with it, and no call failed.
    fn is_whole(&self) -> Result<(), WorkError> {
        let copies = self.device.resident();
        let gone = self.wanted.components.iter().find(|row| !copies.iter().any(|copy| self.is(copy, row)));
        gone.map_or(Ok(()), |row| {
            let reason = format!("its process was replaced during the load and `{}` is not there any more", row.kind);
            Err(RunnerError::Unavailable { device: self.device.id.clone(), reason }.into())
        })
    }

    /// The whole model is on the device and needs its components there.
    fn note_needs(&self) {
        for copy in self.device.resident() {
            if self.wanted.components.iter().any(|row| self.is(&copy, row)) {
                self.device.tier.needs(self.wanted.model.id, &copy, self.keep);
            }
        }
    }

    /// A load that did not finish leaves no half model on the device. What is complete in RAM stays as cache.
    async fn roll_back(&self) {
        self.leases().clear();
        let placed = std::mem::take(&mut *self.placed.lock().unwrap_or_else(PoisonError::into_inner));
        for component in placed {
            match self.device.runner.unload(component).await {
                Ok(_) | Err(RunnerError::NotResident { .. } | RunnerError::Crashed { .. }) => {}
                Err(error) => {
                    tracing::warn!(%component, error = %shared::error::chain(&error), "a component of a failed load stays on the device")
                }
            }
        }
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

fn device_load(row: &ComponentRow, lease: &Lease) -> Result<DeviceLoad, WorkError> {
    let source = lease
        .fd_readonly()
        .map_err(|source| WorkError::System { what: "opening a resident component for the runner".into(), source })?;
    let tensors = lease.tensors().iter().map(|tensor| DeviceTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        offset: tensor.offset,
        len: tensor.len,
    });
    Ok(DeviceLoad {
        component: row.id,
        digest: lease.digest().to_string(),
        tensors: tensors.collect(),
        source,
        offset: lease.offset(),
        bytes: lease.bytes(),
    })
}
