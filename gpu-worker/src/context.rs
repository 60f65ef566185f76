//! What every part of the agent shares: identity, stores, the RAM tier, the runners.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use residency::RamTier;
use shared::{
    bytes::ByteSize,
    db::{Pool, tell::Teller},
    ids::Incarnation,
    shutdown::Tasks,
    status::{LiveStatus, Unaccounted},
};
use tokio::sync::{Notify, watch};

use crate::{
    aliases::Aliases,
    config::Root,
    device_tier::DeviceTier,
    judge::HandedBack,
    managers::{lora::Memo, variants::Variants},
    metrics::Metrics,
    pressure::Pressure,
    rescan::Rescans,
    runner::{DeviceResident, Runner},
    running::Running,
    throttle::Throttle,
    vitals::Vitals,
    watch::Watches,
};

/// A device of this host with its runner.
#[derive(Debug, Clone)]
pub struct Device {
    /// `<host>/<name>`.
    pub id: String,
    /// `cpu:0`, `cuda:1`.
    pub name: String,
    /// Its runner process.
    pub runner: Runner,
    /// What is known of the components on it.
    pub tier: Arc<DeviceTier>,
    /// What is known of the variants among them.
    pub variants: Arc<Variants>,
}

/// Bytes of weights on a device at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DeviceBytes {
    /// By our ledger.
    pub used_bytes: u64,
    /// As the device or the system says.
    pub system_bytes: u64,
}

impl Device {
    /// The copies on it now.
    pub fn resident(&self) -> Vec<DeviceResident> {
        self.runner.status().borrow().resident.clone()
    }

    /// Deaths of its runner so far.
    pub fn deaths(&self) -> u64 {
        self.runner.status().borrow().restarts_total
    }

    /// Its memory is host memory, in the same budget of the machine as the RAM tier.
    pub fn is_host_memory(&self) -> bool {
        self.name.starts_with("cpu:")
    }

    /// The bytes on it now.
    pub fn memory(&self) -> DeviceBytes {
        let memory = self.runner.status().borrow().memory;
        DeviceBytes { used_bytes: memory.used_bytes, system_bytes: memory.system_bytes }
    }
}

/// The agent's parts. Shared as `Arc<Agent>`.
#[derive(Debug)]
pub struct Agent {
    /// Host name.
    pub host: String,
    /// This start of the process.
    pub me: Incarnation,
    /// Connections for everything but heartbeats and hints.
    pub pool: Pool,
    /// Sends hints of starts and ends.
    pub teller: Teller,
    /// The live view, for readers that must see what a job did as soon as it has succeeded.
    pub live: LiveStatus,
    /// Host RAM.
    pub tier: RamTier,
    /// Devices by id.
    pub devices: BTreeMap<String, Device>,
    /// Model folders.
    pub roots: Vec<Root>,
    /// What the watches of the roots know.
    pub watches: Watches,
    /// Scans that failed work asks for.
    pub rescans: Rescans,
    /// Jobs that met a marked file or another variant, and went back to the placement.
    pub handed_back: HandedBack,
    /// How often jobs told the database of residency, beside the publisher.
    pub stored: AtomicU64,
    /// Threads of a scan that read headers.
    pub scan_threads: usize,
    /// Limit of disk reads, if any.
    pub throttle: Option<Arc<Throttle>>,
    /// Limit of reads for hashing, if any; counts beside the one above.
    pub hash_throttle: Option<Arc<Throttle>>,
    /// Whether a scan is followed by hashing.
    pub hashes_after_scan: bool,
    /// Most bytes of all files that one job leaves.
    pub artifact_limit: ByteSize,
    /// Ids that components were loaded under before they were merged.
    pub aliases: Aliases,
    /// What is known of LoRAs against models.
    pub loras: Memo,
    /// Most bytes of variants on each device: 0 for no bound, a quarter of the device when absent.
    pub variant_budget: Option<ByteSize>,
    /// What runs now.
    pub running: Running,
    /// Metrics.
    pub metrics: Metrics,
    /// Memory pressure as last seen.
    pub pressure: watch::Sender<Pressure>,
    /// How the devices are.
    pub vitals: Vitals,
    /// Tiers whose ledger and system differ, as last audited.
    pub unaccounted: watch::Sender<Vec<Unaccounted>>,
    /// Wakes the publisher before its period.
    pub changed: Notify,
    /// Spawns tasks.
    pub tasks: Tasks,
}

impl Agent {
    /// Most bytes of variants on this device; 0 for no bound.
    pub fn variant_budget(&self, device: &Device) -> u64 {
        let quarter = || device.runner.status().borrow().memory.capacity_bytes / 4;
        self.variant_budget.map_or_else(quarter, |budget| budget.0)
    }
}
