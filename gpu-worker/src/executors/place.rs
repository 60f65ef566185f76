//! A model's components on a device: disk → RAM → device, each copied while it is read ([`super::bring`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model_formats::Inspection;
use residency::{Reason, policy::bandwidth::ReadFrom};
use shared::{db::models::ComponentRow, ids::ComponentId, job::Keep};

use super::{
    landed::{self, Landed},
    load::watched,
    model::{Wanted, unsigned},
};
use crate::{
    context::{Agent, Device},
    device_tier::{Bringing, Departing, DeviceLease},
    error::WorkError,
    runner::{DeviceLoaded, DeviceResident, RunnerError},
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
        landed: wanted.components.iter().map(|row| Landed::new(unsigned(row.bytes))).collect(),
        copied: AtomicU64::new(0),
        spared: AtomicU64::new(0),
        placed: Mutex::default(),
        leases: Mutex::default(),
    };
    load.lease_present();
    // every byte is moved twice: into RAM, then to the device
    attempt.progress.enter("reading", wanted.bytes() * 2);
    let moved = watched(attempt, load.all(), || {
        attempt.progress.phase(load.phase());
        load.done_bytes()
    })
    .await;
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

pub(super) struct Load<'a> {
    pub(super) agent: &'a Arc<Agent>,
    pub(super) attempt: &'a Attempt,
    pub(super) device: &'a Device,
    pub(super) wanted: &'a Wanted,
    /// What is said about the copies in RAM and on the device.
    pub(super) keep: Keep,
    pub(super) inspection: &'a Inspection,
    /// By component, in their order.
    pub(super) landed: Vec<Landed>,
    /// Bytes that went to the device.
    pub(super) copied: AtomicU64,
    /// Moves that were not needed: the bytes were there already.
    pub(super) spared: AtomicU64,
    /// What this attempt puts on the device.
    placed: Mutex<Vec<Bringing>>,
    /// What of the model is on the device, by the id that it is held under there: nothing takes it off while this goes on.
    leases: Mutex<BTreeMap<ComponentId, DeviceLease>>,
}

/// A component that is on the device.
#[derive(Debug)]
pub(super) struct PlacedComponent {
    pub(super) id: ComponentId,
    pub(super) kind: String,
    pub(super) digest: String,
    pub(super) from: &'static str,
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

impl Load<'_> {
    fn done_bytes(&self) -> u64 {
        landed::bytes(&self.landed) + self.copied.load(Ordering::Acquire) + self.spared.load(Ordering::Acquire)
    }

    /// What the load does: the copy is told while nothing is on its way into RAM.
    fn phase(&self) -> &'static str {
        landed::phase(&self.landed).unwrap_or(if landed::bytes(&self.landed) > 0 { "copying" } else { "reading" })
    }

    /// What the device holds already with the digest that the catalogue registered.
    pub(super) fn on_device(&self, row: &ComponentRow) -> Option<(DeviceLoaded, String)> {
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

    pub(super) fn landed_elsewhere(&self, row: &ComponentRow) {
        self.spared.fetch_add(2 * unsigned(row.bytes), Ordering::AcqRel);
    }

    /// Leases the copy that arrived and remembers what it took; false when it is on its way off again.
    pub(super) fn note_copied(&self, row: &ComponentRow, loaded: &DeviceLoaded, from: &[ReadFrom]) -> bool {
        let copies = self.device.resident();
        let Some(copy) = copies.iter().find(|copy| copy.component == row.id) else { return true };
        if !loaded.already {
            let took = Duration::from_secs_f64(loaded.seconds.max(0.0));
            self.device.tier.copied(copy, self.attempt.id, from.to_vec(), took);
            // one on an earlier copy, which went with its runner, holds nothing
            self.leases().remove(&copy.component);
        }
        self.leases().contains_key(&copy.component) || self.lease(copy)
    }

    /// Noted before the copy: one that is dropped when another component fails may have finished all the same.
    /// What the device held before is not this attempt's to take away.
    pub(super) fn note_placed(&self, component: ComponentId) {
        let status = self.device.runner.status();
        let held = status.borrow().resident.iter().any(|resident| resident.component == component);
        if !held {
            let bringing = self.device.tier.brings(component, self.attempt.id);
            self.placed.lock().unwrap_or_else(PoisonError::into_inner).push(bringing);
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
        for component in placed.iter().map(Bringing::component) {
            let departing = Departing::begin(self.device, component, self.attempt.why(Reason::Requested));
            match self.device.runner.unload(component).await {
                Ok(_) => departing.gone(),
                // it never came, or went with the runner
                Err(RunnerError::NotResident { .. } | RunnerError::Crashed { .. }) => {}
                Err(error) => {
                    if matches!(error, RunnerError::NotFreed { .. }) {
                        departing.gone();
                    }
                    tracing::warn!(%component, error = %shared::error::chain(&error), "a component of a failed load left memory behind or stays on the device")
                }
            }
        }
    }
}
