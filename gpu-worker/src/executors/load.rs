//! `load`: disk → RAM → device, the next component being read while one is copied.

use std::{
    collections::HashSet,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model_formats::Inspection;
use residency::Lease;
use shared::{
    db::models::ComponentRow,
    ids::ComponentId,
    job::{Keep, LoadArgs},
};

use super::{
    Done, keep,
    model::{self, Landed, Wanted, unsigned},
};
use crate::{
    commit::Effects,
    context::{Agent, Device},
    error::WorkError,
    runner::{DeviceLoad, DeviceLoaded, DeviceTensor, RunnerError},
    running::Attempt,
};

/// How often shared byte counters are copied into the attempt's progress.
const SAMPLE: Duration = Duration::from_millis(100);

pub(super) async fn run(agent: &Arc<Agent>, args: LoadArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("locating", 0);
    let device = device_of(agent, attempt)?;
    let wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    let capacity_bytes = device.runner.status().borrow().memory.capacity_bytes;
    if capacity_bytes > 0 && wanted.bytes() > capacity_bytes {
        return Err(WorkError::TooBig { device: device.id.clone(), needed_bytes: wanted.bytes(), capacity_bytes });
    }
    let inspection = model::inspect(agent, &wanted).await?;
    let load = Load {
        agent,
        attempt,
        device,
        wanted: &wanted,
        keep: Keep { keep_alive: args.keep_alive, protect: args.protect },
        inspection: &inspection,
        landed: Arc::default(),
        copied: AtomicU64::new(0),
        spared: AtomicU64::new(0),
        placed: Mutex::default(),
    };
    // every byte is moved twice: into RAM, then to the device
    attempt.progress.enter("reading", wanted.bytes() * 2);
    let moved = watched(attempt, load.all(), || load.done_bytes()).await;
    let loaded = match moved {
        Ok(loaded) => loaded,
        Err(error) => {
            load.roll_back().await;
            return Err(error);
        }
    };
    load.note_needs();
    attempt.progress.enter("done", wanted.bytes());
    attempt.progress.set(wanted.bytes());
    let bytes: u64 = loaded.iter().map(|loaded| loaded.device.bytes).sum();
    let result = serde_json::json!({
        "model": wanted.model.name, "device": device.id, "bytes": bytes, "seconds": started.elapsed().as_secs_f64(),
        "components": loaded.iter().map(Loaded::view).collect::<Vec<_>>(),
    });
    let digests = loaded.into_iter().map(|loaded| (loaded.id, loaded.digest)).collect();
    Ok(Done { result, effects: Effects::Resident(digests) })
}

/// The device of a job of the device lane.
pub(super) fn device_of<'a>(agent: &'a Agent, attempt: &Attempt) -> Result<&'a Device, WorkError> {
    let id = attempt.device.clone().unwrap_or_default();
    agent.devices.get(&id).ok_or(WorkError::NoDevice(id))
}

/// Runs `work` while a sampler copies `done` into the attempt's progress.
pub(super) async fn watched<T>(attempt: &Attempt, work: impl Future<Output = T>, done: impl Fn() -> u64) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(SAMPLE) => attempt.progress.set(done()),
        }
    }
}

struct Load<'a> {
    agent: &'a Arc<Agent>,
    attempt: &'a Attempt,
    device: &'a Device,
    wanted: &'a Wanted,
    /// What is said about the copies in RAM.
    keep: Keep,
    inspection: &'a Inspection,
    landed: Arc<Landed>,
    /// Bytes that went to the device; set by the one copy that is under way.
    copied: AtomicU64,
    /// Moves that were not needed: the bytes were there already.
    spared: AtomicU64,
    /// What this attempt puts on the device.
    placed: Mutex<Vec<ComponentId>>,
}

struct Loaded {
    id: ComponentId,
    kind: String,
    digest: String,
    from: &'static str,
    device: DeviceLoaded,
}

impl Loaded {
    fn view(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "kind": self.kind, "bytes": self.device.bytes, "digest": self.digest, "from": self.from,
            "copy_seconds": self.device.seconds,
        })
    }
}

/// A component on its way: in RAM, or already on the device with the registered content.
enum Arrived {
    InRam(Lease, bool),
    OnDevice(DeviceLoaded, String),
}

impl Load<'_> {
    fn done_bytes(&self) -> u64 {
        self.landed.bytes() + self.copied.load(Ordering::Acquire) + self.spared.load(Ordering::Acquire)
    }

    async fn all(&self) -> Result<Vec<Loaded>, WorkError> {
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
            return Ok(Arrived::OnDevice(resident, digest));
        }
        self.attempt.progress.detail(&row.kind);
        let request = model::request(self.agent, self.attempt, row, self.inspection, &self.landed)?;
        let (lease, cached) = model::acquire(self.agent, self.attempt, request).await?;
        keep::apply(self.agent, &lease, self.keep)?;
        if cached {
            self.spared.fetch_add(unsigned(row.bytes), Ordering::AcqRel);
        }
        Ok(Arrived::InRam(lease, cached))
    }

    /// What the device holds already with the digest that the catalogue registered.
    fn on_device(&self, row: &ComponentRow) -> Option<(DeviceLoaded, String)> {
        let status = self.device.runner.status();
        let status = status.borrow();
        let resident = status.resident.iter().find(|resident| self.agent.aliases.now(resident.component) == row.id)?;
        (row.digest.as_ref() == Some(&resident.digest))
            .then(|| (DeviceLoaded { bytes: resident.bytes, seconds: 0.0, already: true }, resident.digest.clone()))
    }

    fn landed_elsewhere(&self, row: &ComponentRow) {
        self.spared.fetch_add(2 * unsigned(row.bytes), Ordering::AcqRel);
    }

    async fn place(&self, row: &ComponentRow, arrived: Arrived) -> Result<Loaded, WorkError> {
        let (device, digest, from) = match arrived {
            Arrived::OnDevice(device, digest) => (device, digest, "device"),
            Arrived::InRam(lease, cached) => {
                let device = self.copy(row, &lease).await?;
                (device, lease.digest().to_string(), if cached { "ram" } else { "disk" })
            }
        };
        Ok(Loaded { id: row.id, kind: row.kind.clone(), digest, from, device })
    }

    /// Copies to the device; when it has no room, the least recently used of its other components go first.
    async fn copy(&self, row: &ComponentRow, lease: &Lease) -> Result<DeviceLoaded, WorkError> {
        self.note_placed(row.id);
        loop {
            let before = self.copied.load(Ordering::Acquire);
            let progress = |bytes| self.copied.store(before + bytes, Ordering::Release);
            let load = device_load(row, lease)?;
            match self.device.runner.load(load, progress, &self.attempt.cancel).await {
                Ok(loaded) => {
                    self.copied.store(before + unsigned(row.bytes), Ordering::Release);
                    self.agent.metrics.copied_bytes.inc_by(if loaded.already { 0 } else { loaded.bytes });
                    return Ok(loaded);
                }
                Err(full @ RunnerError::OutOfMemory { .. }) => self.make_room(full).await?,
                Err(error) => return Err(error.into()),
            }
        }
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

    /// The whole model is on the device and needs its components there.
    fn note_needs(&self) {
        for copy in self.device.resident() {
            let component = self.agent.aliases.now(copy.component);
            if self.wanted.components.iter().any(|row| row.id == component) {
                self.device.tier.needs(self.wanted.model.id, &copy);
            }
        }
    }

    /// A load that did not finish leaves no half model on the device. What is complete in RAM stays as cache.
    async fn roll_back(&self) {
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

    async fn make_room(&self, full: RunnerError) -> Result<(), WorkError> {
        let keep: HashSet<ComponentId> = self.wanted.components.iter().map(|row| row.id).collect();
        let victim = {
            let status = self.device.runner.status();
            let status = status.borrow();
            let aliases = &self.agent.aliases;
            let others = status.resident.iter().filter(|resident| !keep.contains(&aliases.now(resident.component)));
            others.min_by_key(|resident| (resident.last_used, resident.component)).map(|resident| resident.component)
        };
        let Some(victim) = victim else { return Err(full.into()) };
        match self.device.runner.unload(victim).await {
            Ok(freed_bytes) => {
                self.agent.metrics.device_evictions.inc();
                tracing::info!(component = %victim, freed_bytes, device = self.device.id, "took a component off the device to make room");
                Ok(())
            }
            Err(RunnerError::NotResident { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
