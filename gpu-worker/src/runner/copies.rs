//! The components on a device: slabs by component, replaced as a whole, read back for verification.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use engine::{Device, DeviceError, Share, SlabId};
use residency::{
    arena::ReadMap,
    digest::{Digest, TensorFacts, component_digest},
};
use shared::{
    error::{ErrorBody, ErrorCode},
    ids::ComponentId,
};

use super::{
    DeviceResident, DeviceTensor,
    aside::{Claim, Ledger},
    engine_thread::{Part, Room},
    plan::{Origins, SHEET},
    protocol::{Done, Failure, RunPart, SharedCopy, Step},
    sheets::{Layer, Sheet},
};

/// Bytes copied between two looks at the cancel flag.
pub(super) const CHUNK: usize = 8 << 20;

/// A component to copy.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) component: ComponentId,
    pub(super) digest: String,
    pub(super) tensors: Vec<DeviceTensor>,
    pub(super) source: OwnedFd,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// How a command failed.
#[derive(Debug)]
pub(super) enum CopyError {
    /// The device works on.
    Failed(Failure),
    /// The device is lost to this process.
    Sticky(String),
}

impl From<DeviceError> for CopyError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::OutOfMemory { needed_bytes, available_bytes, capacity_bytes } => {
                Self::Failed(Failure::OutOfMemory {
                    needed_bytes,
                    available_bytes,
                    capacity_bytes,
                    would_free_bytes: 0,
                })
            }
            DeviceError::Interrupted => Self::Failed(Failure::Cancelled),
            DeviceError::Sealed(_) => {
                let hint = Some("unload it and load it again; then it is written to before it is shared".to_owned());
                let error = ErrorBody { hint, ..ErrorBody::new(ErrorCode::Precondition, error.to_string()) };
                Self::Failed(Failure::Work { error })
            }
            DeviceError::Sticky { .. } => Self::Sticky(error.to_string()),
            other => Self::Failed(Failure::Device { message: shared::error::chain(&other) }),
        }
    }
}

/// A component or a variant on the device.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) sheets: Vec<Arc<Sheet>>,
    pub(super) shown: DeviceResident,
    /// Leases of programs that have the memory open.
    leases: BTreeSet<u64>,
    /// Held by whoever reads it.
    pub(super) user: Arc<()>,
}

impl Copy {
    /// What was loaded into this slab.
    fn loaded(slab: SlabId, tensors: Vec<DeviceTensor>, shown: DeviceResident) -> Self {
        let sheet = Sheet { slab, bytes: shown.bytes, tensors: tensors.into(), origins: Origins::new() };
        Self::of(vec![Arc::new(sheet)], shown)
    }

    /// One of these sheets.
    pub(super) fn of(sheets: Vec<Arc<Sheet>>, shown: DeviceResident) -> Self {
        Self { sheets, shown, leases: BTreeSet::new(), user: Arc::default() }
    }

    /// Its tensors, each with its sheet.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (usize, &DeviceTensor)> {
        self.sheets.iter().enumerate().flat_map(|(at, sheet)| sheet.tensors.iter().map(move |tensor| (at, tensor)))
    }

    /// It was asked for.
    pub(super) fn used(&mut self) {
        self.shown.last_used = Utc::now();
        self.shown.uses += 1;
    }

    fn lease(&mut self, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        change(&mut self.leases);
        self.shown.leases = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
    }

    /// Programs that have it open, and one more while runs or merges read it.
    fn users(&self) -> u32 {
        self.shown.leases.saturating_add(u32::from(Arc::strong_count(&self.user) > 1))
    }
}

/// The device with what is on it.
pub(super) struct Copies {
    pub(super) device: Box<dyn Device>,
    pub(super) copies: BTreeMap<ComponentId, Copy>,
    ledger: Ledger,
    /// Slabs that nothing has any more and that could not be freed.
    pub(super) unfreed: Vec<SlabId>,
    /// Bytes of a variant's sheet that begins no other.
    pub(super) sheet_bytes: u64,
}

impl Copies {
    /// An empty device.
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        let sheet_bytes = if device.facts().kind == "cpu" { SHEET } else { u64::MAX };
        Self { device, copies: BTreeMap::new(), ledger: Ledger::default(), unfreed: Vec::new(), sheet_bytes }
    }

    /// The device.
    pub(super) fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// What is on it.
    pub(super) fn resident(&self) -> Vec<DeviceResident> {
        self.copies.values().map(|copy| copy.shown.clone()).collect()
    }

    /// Copies a component; the same content is not copied again, other content replaces the old.
    pub(super) fn load(
        &mut self,
        incoming: Incoming,
        mut progress: impl FnMut(Step),
        cancelled: impl Fn() -> bool,
    ) -> Result<Done, CopyError> {
        let began = Instant::now();
        if let Some(copy) = self.copies.get_mut(&incoming.component).filter(|copy| copy.shown.digest == incoming.digest)
        {
            copy.used();
            return Ok(Done::Loaded { bytes: copy.shown.bytes, seconds: 0.0, already: true });
        }
        self.free_of_leases(incoming.component)?;
        let source = open(&incoming)?;
        // each step of the allocation is a sign of life, too
        let mut wanted = || {
            progress(Step::Copied(0));
            !cancelled()
        };
        let slab = self.room(&incoming, &mut wanted)?;
        if let Err(error) = self.fill(slab, &source, &mut progress, &cancelled) {
            // giving gigabytes back takes a moment, which is not the copy going on
            progress(Step::Stopping);
            return Err(self.given_up(slab, error));
        }
        self.admit(slab, (incoming.component, incoming.digest, incoming.tensors), began.elapsed())
    }

    /// What a slab was filled with is resident from here on, in place of what was held under its id. Where that is in use, or is
    /// the same, the slab goes.
    pub(super) fn admit(
        &mut self,
        slab: SlabId,
        (component, digest, tensors): (ComponentId, String, Vec<DeviceTensor>),
        took: Duration,
    ) -> Result<Done, CopyError> {
        let seconds = took.as_secs_f64();
        if let Some(copy) = self.copies.get_mut(&component).filter(|copy| copy.shown.digest == digest) {
            copy.used();
            let bytes = copy.shown.bytes;
            // what cannot be freed now is tried again, and the component is there
            if let Err(lost @ DeviceError::Sticky { .. }) = self.free(slab) {
                return Err(lost.into());
            }
            return Ok(Done::Loaded { bytes, seconds, already: true });
        }
        if let Err(used) = self.free_of_leases(component) {
            return Err(self.given_up(slab, used));
        }
        let bytes = self.device.slab_bytes(slab)?;
        let shown = DeviceResident::new(component, digest, bytes, None);
        match self.take_off(component) {
            // nothing was there
            Ok(_) | Err(CopyError::Failed(_)) => {}
            Err(lost @ CopyError::Sticky(_)) => return Err(lost),
        }
        self.copies.insert(component, Copy::loaded(slab, tensors, shown));
        self.recount();
        Ok(Done::Loaded { bytes, seconds, already: false })
    }

    /// Memory of the device that nobody has set aside.
    pub(super) fn allocate(&mut self, bytes: u64, wanted: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError> {
        let claim = self.claim(bytes)?;
        let slab = self.device.allocate_while(bytes, wanted);
        self.allocated(claim);
        slab
    }

    /// The same without its pages.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<SlabId, DeviceError> {
        let claim = self.claim(bytes)?;
        let slab = self.device.reserve(bytes);
        self.allocated(claim);
        slab
    }

    /// The same in the memory of a slab that nothing has any more, which is gone then, or freed later.
    pub(super) fn replace(&mut self, slab: SlabId, bytes: u64) -> Result<SlabId, DeviceError> {
        let more = bytes.saturating_sub(self.device.slab_bytes(slab)?);
        let replaced = match self.claim(more) {
            Ok(claim) => {
                let replaced = self.device.replace(slab, bytes);
                self.allocated(claim);
                replaced
            }
            Err(set_aside) => Err(set_aside),
        };
        match replaced {
            Err(error) if !matches!(error, DeviceError::Sticky { .. }) && self.device.slab_bytes(slab).is_ok() => {
                self.discard(slab)?;
                self.reserve(bytes)
            }
            replaced => replaced,
        }
    }

    fn claim(&mut self, bytes: u64) -> Result<Claim, DeviceError> {
        self.free_late()?;
        self.ledger.look(self.device.memory()?);
        self.ledger.claim(bytes)
    }

    /// What was promised is taken, or was not to be had: from here on the device's own figures say which.
    fn allocated(&self, claim: Claim) {
        if let Ok(memory) = self.device.memory() {
            self.ledger.look(memory);
        }
        drop(claim);
    }

    /// What runs and allocations have set aside.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A slab beside the old content if both fit; otherwise the old content goes first.
    fn room(&mut self, incoming: &Incoming, wanted: &mut dyn FnMut() -> bool) -> Result<SlabId, CopyError> {
        let old_bytes = self.copies.get(&incoming.component).map(|copy| copy.shown.bytes);
        let allocated = match (self.allocate(incoming.bytes, wanted), old_bytes) {
            // the old content goes only when that makes the new one fit
            (Err(DeviceError::OutOfMemory { needed_bytes, available_bytes, .. }), Some(old_bytes))
                if needed_bytes <= available_bytes.saturating_add(old_bytes) =>
            {
                self.free_of_leases(incoming.component)?;
                // what of it cannot be freed is tried once more by the allocation
                self.take_off(incoming.component)?;
                self.allocate(incoming.bytes, wanted)
            }
            (allocated, _) => allocated,
        };
        allocated.map_err(|error| self.with_would_free(error))
    }

    pub(super) fn with_would_free(&self, error: DeviceError) -> CopyError {
        let sum = self.copies.values().map(|copy| copy.shown.bytes).sum();
        match CopyError::from(error) {
            CopyError::Failed(Failure::OutOfMemory { needed_bytes, available_bytes, capacity_bytes, .. }) => {
                CopyError::Failed(Failure::OutOfMemory {
                    needed_bytes,
                    available_bytes,
                    capacity_bytes,
                    would_free_bytes: sum,
                })
            }
            other => other,
        }
    }

    fn fill(
        &mut self,
        slab: SlabId,
        source: &[u8],
        progress: &mut impl FnMut(Step),
        cancelled: &impl Fn() -> bool,
    ) -> Result<(), CopyError> {
        let mut done = 0;
        for chunk in source.chunks(CHUNK) {
            if cancelled() {
                return Err(CopyError::Failed(Failure::Cancelled));
            }
            self.device.write(slab, done, chunk)?;
            done += chunk.len() as u64;
            progress(Step::Copied(done));
        }
        Ok(self.device.synchronize()?)
    }

    /// Frees a component; of a variant what no other one holds. What was loaded and did not come back whole is a failure, although
    /// the copy has left: whoever unloads waits for the bytes. Of a variant less may come back, and the answer says how much.
    pub(super) fn unload(&mut self, component: ComponentId) -> Result<Done, CopyError> {
        self.free_of_leases(component)?;
        // what an earlier one left behind is asked for again with each
        self.free_late()?;
        let loaded = self.copies.get(&component).filter(|copy| copy.shown.variant.is_none());
        let owed = loaded.map_or(0, |copy| copy.shown.bytes);
        let bytes = self.take_off(component)?;
        if bytes < owed {
            return Err(CopyError::Failed(Failure::NotFreed { component, freed_bytes: bytes, owed_bytes: owed }));
        }
        Ok(Done::Unloaded { bytes })
    }

    /// Memory that programs have open, or that a run reads, is not taken from under them.
    pub(super) fn free_of_leases(&self, component: ComponentId) -> Result<(), CopyError> {
        match self.copies.get(&component).map_or(0, Copy::users) {
            0 => Ok(()),
            leases => Err(CopyError::Failed(Failure::InUse { component, leases })),
        }
    }

    /// Opens a component's memory to other processes until the lease is given back.
    pub(super) fn share(&mut self, component: ComponentId, lease: u64) -> Result<Done, CopyError> {
        let (slab, tensors) = {
            let sheet = self.single(component)?;
            (sheet.slab, sheet.tensors.to_vec())
        };
        let (memory, cuda) = match self.device.share(slab)? {
            Share::Memory(memory) => (Some(memory), None),
            Share::Cuda(cuda) => (None, Some(cuda)),
        };
        let copy = self.copies.get_mut(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))?;
        copy.lease(|leases| leases.insert(lease));
        copy.used();
        let (digest, bytes) = (copy.shown.digest.clone(), copy.shown.bytes);
        Ok(Done::Shared(SharedCopy { digest, bytes, tensors, cuda, memory }))
    }

    /// Gives such a lease back; one that is not there has been given back.
    pub(super) fn unshare(&mut self, component: ComponentId, lease: u64) -> Done {
        if let Some(copy) = self.copies.get_mut(&component) {
            copy.lease(|leases| leases.remove(&lease));
        }
        Done::Unshared
    }

    /// The components of a run, each with its memory, which stays until the run lets go of it.
    pub(super) fn parts(&mut self, wanted: Vec<RunPart>) -> Result<Vec<Part>, CopyError> {
        wanted.into_iter().map(|part| self.part(part)).collect()
    }

    fn part(&mut self, RunPart { slot, component, overlay }: RunPart) -> Result<Part, CopyError> {
        let (mut digest, mut layers) = self.taking_part(component)?;
        if let Some(overlay) = overlay {
            self.lies_over(overlay, &digest)?;
            let (key, over) = self.taking_part(overlay)?;
            digest = key;
            layers.extend(over);
        }
        Ok(Part { slot, digest, layers })
    }

    fn taking_part(&mut self, component: ComponentId) -> Result<(String, Vec<Layer>), CopyError> {
        let layers = self.layers(component)?;
        let copy = self.copies.get_mut(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))?;
        copy.used();
        Ok((copy.shown.digest.clone(), layers))
    }

    /// Whether this is a variant of the base: one of another would mix weights that belong to no model.
    fn lies_over(&self, component: ComponentId, base_digest: &str) -> Result<(), CopyError> {
        if self.copy(component)?.shown.variant.as_ref().is_none_or(|variant| variant.base_digest != base_digest) {
            let message = format!("{component} is no variant of the component that it was named with");
            return Err(CopyError::Failed(Failure::Work { error: ErrorBody::new(ErrorCode::Conflict, message) }));
        }
        Ok(())
    }

    /// What a run of these parts may take for itself.
    pub(super) fn room_for_run(&self, parts: &[Part]) -> Result<Room, CopyError> {
        let memory = self.device.memory()?;
        self.ledger.look(memory);
        let running: u64 = parts.iter().map(Part::bytes).sum();
        Ok(Room { capacity_bytes: memory.capacity_bytes, would_free_bytes: memory.used_bytes.saturating_sub(running) })
    }

    /// Reads a component back from the device and hashes it; `alive` hears of each chunk.
    pub(super) fn digest(&mut self, component: ComponentId, mut alive: impl FnMut(Step)) -> Result<Done, CopyError> {
        let copy = self.copies.get(&component).ok_or(CopyError::Failed(Failure::NotResident { component }))?;
        let mut buffer = vec![0; CHUNK];
        let mut digests = Vec::new();
        let mut hashed = 0;
        for (tensor, slab) in
            copy.sheets.iter().flat_map(|sheet| sheet.tensors.iter().map(|tensor| (tensor, sheet.slab)))
        {
            let mut hasher = blake3::Hasher::new();
            let mut done = 0;
            while done < tensor.len {
                let length = usize::try_from(tensor.len - done).unwrap_or(CHUNK).min(CHUNK);
                let piece = buffer.get_mut(..length).unwrap_or_default();
                self.device.read(slab, tensor.offset + done, piece)?;
                hasher.update(piece);
                done += length as u64;
                hashed += length as u64;
                alive(Step::Copied(hashed));
            }
            digests.push(Digest::from_bytes(*hasher.finalize().as_bytes()));
        }
        let facts: Vec<TensorFacts<'_>> = copy
            .tensors()
            .zip(digests)
            .map(|((_, tensor), digest)| TensorFacts {
                name: &tensor.name,
                dtype: &tensor.dtype,
                shape: &tensor.shape,
                len: tensor.len,
                digest,
            })
            .collect();
        Ok(Done::Digest { digest: component_digest(&facts).to_string() })
    }
}

fn open(incoming: &Incoming) -> Result<ReadMap, CopyError> {
    let length = usize::try_from(incoming.bytes).unwrap_or(usize::MAX);
    ReadMap::open(&incoming.source, incoming.offset, length).map_err(|error| {
        CopyError::Failed(Failure::Device { message: format!("the component's memory cannot be mapped: {error}") })
    })
}
