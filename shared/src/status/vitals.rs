//! What a host's management library says of its devices, and where ledgers differ from what the system says.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The management library of a host's devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NvmlStatus {
    /// `answering`, `unmonitored` (it never answered), `failing` (it did, and does not now), `unresponsive` (a call into
    /// it does not return).
    pub standing: String,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it reports no events, where it only gives figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_reason: Option<String>,
    /// Version of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Devices that it lists, also those that no runner owns.
    pub devices: Vec<DeviceVitals>,
}

/// How a device is. A figure that is not known now is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceVitals {
    /// Vendor UUID.
    pub uuid: String,
    /// Product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// `00000000:65:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_bus_id: Option<String>,
    /// `8.9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// `good`, `unmonitored` (used all the same), `unknown` (no new work while nobody can say how it is), `broken` (no new
    /// work, its process ended).
    pub condition: String,
    /// Why it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Memory in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// Memory that all processes together take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Memory of our runner, what the driver needs for it included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_bytes: Option<u64>,
    /// Share of time in which it computed, 0..1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization_ratio: Option<f64>,
    /// Temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<f64>,
    /// What it draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
    /// What it may draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<f64>,
    /// What it has drawn since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// Memory errors that were corrected, since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_corrected: Option<u64>,
    /// Memory errors that were not corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// Why its clocks are held down: `power_cap`, `thermal`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<String>,
    /// Parts that it is divided into, by UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<DevicePart>,
    /// What the driver reported since the agent started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<DeviceIncident>,
}

/// A part of a divided device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DevicePart {
    /// `MIG-…`.
    pub uuid: String,
    /// Product name with its size.
    pub name: String,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
}

/// Something that the driver reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceIncident {
    /// In words, e.g. `Xid 31 (a program touched memory that it does not have)`.
    pub what: String,
    /// What it costs: `device`, `runner` (its process is replaced), `nothing`.
    pub costs: String,
    /// How often.
    pub times: u64,
    /// When last (host clock).
    pub last: DateTime<Utc>,
}

/// A tier whose ledger and system have differed by more than is allowed for a while (G8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unaccounted {
    /// `ram`, or a device's name.
    pub tier: String,
    /// What we account.
    pub ledger_bytes: u64,
    /// What the system says.
    pub system_bytes: u64,
    /// Difference that is nothing to tell about.
    pub allowed_bytes: u64,
}
