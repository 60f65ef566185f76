//! Every byte of memory that is ours, by who owns it, with the system's own figures beside.

use serde::{Deserialize, Serialize};

/// The memory of a host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostMemory {
    /// What the system says.
    pub system: SystemMemory,
    /// The RAM tier, then each device.
    pub tiers: Vec<TierMemory>,
    /// The agent, then the runner of each device.
    pub processes: Vec<ProcessMemory>,
    /// Host memory that is ours: what the system has allocated for RAM and for devices that live in host memory, and the
    /// processes' own memory.
    pub ours_bytes: u64,
}

/// What the system says about the memory of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SystemMemory {
    /// Memory of the machine.
    pub total_bytes: u64,
    /// What programs may still take without swapping.
    pub available_bytes: u64,
    /// What may still be taken by either measure, the machine's or that of the tightest control group.
    pub room_bytes: u64,
    /// What is to be left to others.
    pub headroom_bytes: u64,
    /// The limit of the tightest control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_limit_bytes: Option<u64>,
    /// What that group uses and the kernel cannot simply drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_used_bytes: Option<u64>,
}

/// The weights in one tier. Bytes of a component that are counted in several of the lower lines are those of one copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TierMemory {
    /// `ram`, or the device's id.
    pub place: String,
    /// Its memory is the host's: RAM, and `cpu:0`.
    pub host_memory: bool,
    /// What it may hold.
    pub capacity_bytes: u64,
    /// What it holds, by our ledger: ready copies in RAM, slabs of a device.
    pub used_bytes: u64,
    /// Promised to running loads.
    pub reserved_bytes: u64,
    /// What the system or the device says our weights take.
    pub system_bytes: u64,
    /// What the system has more than the ledger and its promises explain; negative when it has less.
    pub unaccounted_bytes: i64,
    /// Copies.
    pub copies: u64,
    /// Of the copies: variants.
    #[serde(default)]
    pub variants: u64,
    /// Of the used bytes: in use by jobs or programs.
    pub leased_bytes: u64,
    /// Of the used bytes: kept by operators.
    pub protected_bytes: u64,
    /// Of the used bytes: neither in use nor kept.
    pub evictable_bytes: u64,
    /// Of the used bytes: a second copy of a component in this same tier.
    pub duplicate_bytes: u64,
    /// Of the used bytes: variants, which are copies of components with changed tensors.
    #[serde(default)]
    pub variant_bytes: u64,
    /// Of the used bytes: copies of components that another tier of this host holds as well.
    pub elsewhere_bytes: u64,
}

/// One of our processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProcessMemory {
    /// `agent`, or the device whose runner it is.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Its own memory: heap, stacks, staging buffers. Weights are not in it.
    pub own_bytes: u64,
    /// Resident memory as the system reports it; shared weights count in every process that maps them.
    pub resident_bytes: u64,
}
