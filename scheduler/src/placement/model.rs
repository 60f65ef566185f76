//! What a placement looks at, as plain values: the farm as a snapshot, and one job.
//! Maps are ordered or looked up by key, so that no decision depends on the order of rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use shared::{
    ids::{ComponentId, JobId, ModelId},
    job::{JobKind, Lane},
};

/// The farm at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Hosts by name.
    pub hosts: BTreeMap<String, Host>,
    /// Devices by id.
    pub devices: BTreeMap<String, Device>,
    /// Hosts that have a model on disk.
    pub locations: HashMap<ModelId, BTreeSet<String>>,
    /// Of these, those that have yet to scan their files of the variant that is read by now.
    pub behind: HashMap<ModelId, BTreeSet<String>>,
    /// And those with a file of it whose bytes are not the registered ones: how they were read, in words.
    pub corrupt: HashMap<ModelId, BTreeMap<String, String>>,
}

/// A host and its RAM tier.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Its agent's lease is valid.
    pub alive: bool,
    /// It takes no new work.
    pub draining: bool,
    /// Labels.
    pub labels: BTreeSet<String>,
    /// Names of its roots, readable or not: a scan finds out.
    pub roots: BTreeSet<String>,
    /// Why its runners cannot run models; none when they can, or have not said yet.
    pub runs_no_models: Option<String>,
    /// The host lane's slots and queue.
    pub queue: Queue,
    /// The RAM tier.
    pub ram: Tier,
}

/// A device and its memory.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// Its host.
    pub host: String,
    /// Why it takes no work; none when it is ready.
    pub not_ready: Option<String>,
    /// Labels of its own; those of its host count as well.
    pub labels: BTreeSet<String>,
    /// The device lane's slots and queue.
    pub queue: Queue,
    /// The device tier.
    pub memory: Tier,
}

/// Slots of a lane, and the jobs placed or running there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Queue {
    /// Jobs at a time.
    pub slots: u32,
    /// Jobs that may be placed ahead of the slots.
    pub ahead: u32,
    /// Jobs placed or running.
    pub jobs: u32,
}

impl Queue {
    /// True when one more job may be placed.
    pub fn has_room(self) -> bool {
        self.jobs < self.slots.saturating_add(self.ahead)
    }

    /// Jobs per thousand slots: comparable between lanes with different slots.
    pub fn load(self) -> u64 {
        u64::from(self.jobs) * 1000 / u64::from(self.slots.max(1))
    }
}

/// One tier of memory, in bytes.
#[derive(Debug, Clone, Default)]
pub struct Tier {
    /// Capacity or budget.
    pub capacity_bytes: u64,
    /// In use or promised.
    pub used_bytes: u64,
    /// In use and not evictable now: leased or protected.
    pub held_bytes: u64,
    /// Components that are in it or on their way, with their bytes.
    pub resident: HashMap<ComponentId, u64>,
    /// Of these, those that are there as a whole: nothing has to be read for them.
    pub ready: HashSet<ComponentId>,
}

impl Tier {
    /// Bytes of `components` that are not here yet.
    pub fn missing(&self, components: &[(ComponentId, u64)]) -> u64 {
        components.iter().filter(|(id, _)| !self.resident.contains_key(id)).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that must be evicted to make room for `missing` more; 0 when they fit.
    pub fn must_evict(&self, missing: u64) -> u64 {
        missing.saturating_sub(self.capacity_bytes.saturating_sub(self.used_bytes))
    }

    /// Enters what the tier's worker reports: there, or on its way.
    pub fn enter(&mut self, component: ComponentId, bytes: u64, is_ready: bool) {
        self.resident.insert(component, bytes);
        if is_ready {
            self.ready.insert(component);
        }
    }

    /// Promises room for what is missing of `components`, so that the next decision sees it taken.
    pub fn promise(&mut self, components: &[(ComponentId, u64)]) {
        for (id, bytes) in components {
            if self.resident.insert(*id, *bytes).is_none() {
                self.used_bytes = self.used_bytes.saturating_add(*bytes);
            }
        }
    }
}

/// One pending job.
#[derive(Debug, Clone)]
pub struct PendingJob {
    /// Id.
    pub id: JobId,
    /// Kind.
    pub kind: JobKind,
    /// Where work like it runs.
    pub lane: Lane,
    /// Only this host.
    pub pin_host: Option<String>,
    /// Only this device.
    pub pin_device: Option<String>,
    /// Labels that the place must have.
    pub need_labels: Vec<String>,
    /// The model it is about.
    pub model: Option<ModelId>,
    /// Components that it touches, with their bytes.
    pub components: Vec<(ComponentId, u64)>,
    /// Its components need not stay in RAM on their way to a device: one after the other may be there.
    pub through_ram: bool,
    /// It writes a copy of the model's file: a `metadata_write` in that form.
    pub copies: bool,
    /// Other models whose files it needs.
    pub other_models: Vec<ModelId>,
    /// The root that it names.
    pub root: Option<String>,
    /// Time since its last worker was lost.
    pub lost_for: Option<Duration>,
    /// The device, or for work of a host the host, whose process died under its last attempt.
    pub crashed_on: Option<String>,
}

impl PendingJob {
    /// Bytes of all its components.
    pub fn needs_bytes(&self) -> u64 {
        self.components.iter().map(|(_, bytes)| bytes).sum()
    }

    /// True for what a runner needs a library for: the models do not only lie in memory.
    pub fn runs_models(&self) -> bool {
        match self.kind {
            JobKind::VaeDecode | JobKind::VaeEncode | JobKind::EncodeText | JobKind::UnetStep | JobKind::Generate => {
                true
            }
            // the levels before `forward` read files
            JobKind::Validate => self.lane == Lane::Device,
            // a benchmark of a host without a library measures what there is
            JobKind::Benchmark
            | JobKind::Scan
            | JobKind::Load
            | JobKind::Unload
            | JobKind::CacheAdd
            | JobKind::CacheRemove
            | JobKind::CacheKeep
            | JobKind::Hash
            | JobKind::MetadataWrite
            | JobKind::Convert
            | JobKind::Optimize
            | JobKind::Tokenize
            | JobKind::LoraCheck
            | JobKind::BlendLoras
            | JobKind::ApplyPipeline
            | JobKind::RestorePipeline => false,
        }
    }

    /// The models whose files it needs.
    pub(super) fn models(&self) -> impl Iterator<Item = &ModelId> {
        self.model.iter().chain(&self.other_models)
    }

    /// True for what reads the weights of models from disk, unless they are in memory: not what looks at files to say what is wrong
    /// with them, nor what needs their configs and tokenizers only.
    pub fn reads_weights(&self) -> bool {
        match self.kind {
            JobKind::Load
            | JobKind::CacheAdd
            | JobKind::VaeDecode
            | JobKind::VaeEncode
            | JobKind::EncodeText
            | JobKind::UnetStep
            | JobKind::Generate
            | JobKind::Benchmark
            | JobKind::ApplyPipeline
            | JobKind::Convert
            | JobKind::LoraCheck
            | JobKind::BlendLoras => true,
            // the levels before `forward` are how a file is found to be well again
            JobKind::Validate => self.lane == Lane::Device,
            // a side-car says what people know of the model
            JobKind::MetadataWrite => self.copies,
            JobKind::Scan
            | JobKind::Unload
            | JobKind::CacheRemove
            | JobKind::CacheKeep
            | JobKind::Hash
            | JobKind::Optimize
            | JobKind::Tokenize
            | JobKind::RestorePipeline => false,
        }
    }

    /// True for kinds that bring weights into memory.
    pub fn brings_weights(&self) -> bool {
        self.kind.needs_weights()
    }
}

impl Snapshot {
    /// Whether a host has a model on its disk.
    pub(super) fn has(&self, model: &ModelId, host: &str) -> bool {
        self.locations.get(model).is_some_and(|hosts| hosts.contains(host))
    }

    /// Whether what a host has of it was not scanned since another variant was chosen.
    pub(super) fn is_behind(&self, model: &ModelId, host: &str) -> bool {
        self.behind.get(model).is_some_and(|hosts| hosts.contains(host))
    }

    /// What is wrong with a file of a model on a host's disk.
    pub(super) fn corrupt_on(&self, model: &ModelId, host: &str) -> Option<&str> {
        self.corrupt.get(model)?.get(host).map(String::as_str)
    }

    /// Takes the room that an assignment uses.
    pub fn assign(&mut self, job: &PendingJob, host: &str, device: Option<&str>) {
        let (queue, tier) = match device {
            Some(id) => match self.devices.get_mut(id) {
                Some(device) => (&mut device.queue, &mut device.memory),
                None => return,
            },
            None => match self.hosts.get_mut(host) {
                Some(host) => (&mut host.queue, &mut host.ram),
                None => return,
            },
        };
        queue.jobs = queue.jobs.saturating_add(1);
        if job.brings_weights() {
            tier.promise(&job.components);
        }
    }
}

/// A place that a job may be given to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Device id, or the host's name in the host lane.
    pub(super) name: &'a str,
    /// Host's name.
    pub(super) host_name: &'a str,
    /// The host; none when a device names a host that is not registered.
    pub(super) host: Option<&'a Host>,
    /// The device, in the device lane.
    pub(super) device: Option<&'a Device>,
}

impl<'a> Place<'a> {
    /// The lane's queue.
    pub(super) fn queue(&self) -> Queue {
        self.device.map(|device| device.queue).or(self.host.map(|host| host.queue)).unwrap_or_default()
    }

    /// The tier that a job of this lane fills: device memory, or the host's RAM.
    pub(super) fn tier(&self) -> Option<&'a Tier> {
        self.device.map(|device| &device.memory).or(self.host.map(|host| &host.ram))
    }

    /// True when host or device carries the label.
    pub(super) fn has_label(&self, label: &str) -> bool {
        self.host.is_some_and(|host| host.labels.contains(label))
            || self.device.is_some_and(|device| device.labels.contains(label))
    }
}

/// The places of a job's lane that its pins allow, by name.
pub(super) fn candidates<'a>(snapshot: &'a Snapshot, job: &'a PendingJob) -> impl Iterator<Item = Place<'a>> {
    let pinned_host = move |name: &str| job.pin_host.as_deref().is_none_or(|pin| pin == name);
    let device_lane = job.lane == Lane::Device;
    let devices = snapshot
        .devices
        .iter()
        .filter(move |(id, device)| {
            device_lane && pinned_host(&device.host) && job.pin_device.as_ref().is_none_or(|pin| pin == *id)
        })
        .map(|(id, device)| Place {
            name: id,
            host_name: &device.host,
            host: snapshot.hosts.get(&device.host),
            device: Some(device),
        });
    let hosts = snapshot
        .hosts
        .iter()
        .filter(move |(name, _)| !device_lane && pinned_host(name))
        .map(|(name, host)| Place { name, host_name: name, host: Some(host), device: None });
    devices.chain(hosts)
}
