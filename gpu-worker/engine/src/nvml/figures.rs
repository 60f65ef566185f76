//! What the management library says, as plain data. A figure that a device or driver does not give is absent, never zero.

use std::time::Instant;

/// All devices at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NvmlFigures {
    /// When the round of calls began that gave them: what happened later is not in them.
    pub began: Option<Instant>,
    /// Version of the driver.
    pub driver: Option<String>,
    /// Devices, in the library's order.
    pub devices: Vec<NvmlDevice>,
}

impl NvmlFigures {
    /// The device with this UUID, or the one whose part has it. CUDA and this library write different prefixes for parts.
    pub fn device(&self, uuid: &str) -> Option<&NvmlDevice> {
        self.devices
            .iter()
            .find(|device| same(&device.identity.uuid, uuid) || device.parts.iter().any(|part| same(&part.uuid, uuid)))
    }
}

/// True when two UUIDs are the same, whatever stands before their first dash.
fn same(one: &str, other: &str) -> bool {
    let bare = |uuid: &str| uuid.trim_start_matches("GPU-").trim_start_matches("MIG-").to_ascii_lowercase();
    bare(one) == bare(other)
}

/// What a device is; does not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `GPU-…`.
    pub uuid: String,
    /// Product name.
    pub product: String,
    /// `00000000:65:00.0`.
    pub pci_bus_id: Option<String>,
    /// `8.9`.
    pub compute_capability: Option<String>,
}

/// A device at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NvmlDevice {
    /// What it is.
    pub identity: Identity,
    /// Why it does not answer any more.
    pub fault: Option<DeviceFault>,
    /// Its memory, all processes together.
    pub memory: Option<NvmlMemory>,
    /// Share of time in which it computed, 0..1.
    pub utilization_ratio: Option<f64>,
    /// Temperature of the chip.
    pub temperature_celsius: Option<f64>,
    /// What it draws.
    pub power_watts: Option<f64>,
    /// What it may draw.
    pub power_limit_watts: Option<f64>,
    /// What it has drawn since the driver was loaded.
    pub energy_joules: Option<f64>,
    /// Memory errors since the driver was loaded.
    pub ecc: Option<EccErrors>,
    /// Why its clocks are held down: `power_cap`, `thermal`, …
    pub throttled: Vec<&'static str>,
    /// Parts that it is divided into; empty when it is whole.
    pub parts: Vec<MigInstance>,
    /// Processes that compute on it; absent when the library does not say.
    pub processes: Option<Vec<NvmlProcess>>,
}

impl NvmlDevice {
    /// Bytes that a process holds on it, what the driver needs for the process included.
    pub fn bytes_of(&self, pid: u32) -> Option<u64> {
        self.processes.as_ref()?.iter().find(|process| process.pid == pid)?.bytes
    }
}

/// A state that a device does not leave by itself (F30).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceFault {
    /// It fell off the bus.
    Lost,
    /// It must be reset.
    ResetRequired,
}

impl DeviceFault {
    /// The fault in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "it fell off the bus or cannot be reached",
            Self::ResetRequired => "it must be reset before it can be used again",
        }
    }
}

/// Memory of a device in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvmlMemory {
    /// In all.
    pub total_bytes: u64,
    /// Taken by processes.
    pub used_bytes: u64,
    /// Kept by driver and firmware.
    pub reserved_bytes: u64,
    /// Free.
    pub free_bytes: u64,
}

/// Counts of memory errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EccErrors {
    /// That were corrected.
    pub corrected: u64,
    /// That were not.
    pub uncorrected: u64,
}

/// A part of a divided device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigInstance {
    /// `MIG-…`.
    pub uuid: String,
    /// Product name with its size.
    pub name: String,
    /// Memory in bytes.
    pub total_bytes: Option<u64>,
}

/// A process on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvmlProcess {
    /// Process id, as the library sees it.
    pub pid: u32,
    /// Bytes that it holds, where the library says.
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_uuid_or_that_of_a_part() {
        let identity = Identity { uuid: "GPU-aa-01".into(), ..Identity::default() };
        let part = MigInstance { uuid: "MIG-bb-02".into(), name: "1g".into(), total_bytes: None };
        let device = NvmlDevice { identity, parts: vec![part], ..NvmlDevice::default() };
        let figures = NvmlFigures { devices: vec![NvmlDevice::default(), device], ..NvmlFigures::default() };
        assert!(figures.device("GPU-AA-01").is_some() && figures.device("GPU-bb-02").is_some());
        assert!(figures.device("GPU-cc-03").is_none());
    }

    #[test]
    fn a_process_has_the_bytes_that_the_library_says_or_none() {
        let processes = vec![NvmlProcess { pid: 7, bytes: Some(5) }, NvmlProcess { pid: 8, bytes: None }];
        let device = NvmlDevice { processes: Some(processes), ..NvmlDevice::default() };
        assert_eq!((device.bytes_of(7), device.bytes_of(8), device.bytes_of(9)), (Some(5), None, None));
    }
}
