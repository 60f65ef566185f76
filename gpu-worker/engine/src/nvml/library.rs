//! Reading all figures of all devices through the library. What a device does not support is absent; what tells of a
//! broken device ends the questions to it; what tells of a broken library ends the round.

use std::collections::BTreeMap;

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
};

use super::{
    figures::{DeviceFault, EccErrors, Identity, MigInstance, NvmlDevice, NvmlMemory, NvmlProcess},
    monitor::Calls,
};

/// Reasons for which clocks are held down against the operator's will.
const THROTTLES: [ThrottleReasons; 6] = [
    ThrottleReasons::SW_POWER_CAP,
    ThrottleReasons::SW_THERMAL_SLOWDOWN,
    ThrottleReasons::HW_THERMAL_SLOWDOWN,
    ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
    ThrottleReasons::HW_SLOWDOWN,
    ThrottleReasons::SYNC_BOOST,
];

/// Every reason that is told, by name.
pub const THROTTLE_REASONS: [&str; 6] =
    ["power_cap", "thermal", "hardware_thermal", "power_brake", "hardware_slowdown", "sync_boost"];

/// All devices. `known` keeps what they are: a lost device does not say its name, and may not be listed at all.
pub(super) fn devices(
    nvml: &Nvml,
    known: &mut BTreeMap<u32, Identity>,
    calls: &Calls<'_>,
) -> Result<Vec<NvmlDevice>, NvmlError> {
    let count = calls.make("device count", || nvml.device_count())?;
    let mut devices = Vec::new();
    for index in 0..count {
        devices.extend(device(nvml, index, known, calls)?);
    }
    for identity in known.values() {
        if !devices.iter().any(|device| device.identity.uuid == identity.uuid) {
            devices.push(faulty(identity.clone(), DeviceFault::Lost));
        }
    }
    Ok(devices)
}

/// None for a device that this process may not ask.
fn device(
    nvml: &Nvml,
    index: u32,
    known: &mut BTreeMap<u32, Identity>,
    calls: &Calls<'_>,
) -> Result<Option<NvmlDevice>, NvmlError> {
    let found = calls.make("device handle", || nvml.device_by_index(index));
    let named = found.and_then(|device| {
        let uuid = calls.make("device uuid", || device.uuid())?;
        Ok((device, uuid))
    });
    match named {
        Ok((device, uuid)) => {
            let identity = match known.get(&index).filter(|identity| identity.uuid == uuid) {
                Some(identity) => identity.clone(),
                None => identify(&device, uuid, calls)?,
            };
            known.insert(index, identity.clone());
            Ok(Some(read(&device, identity, calls)?))
        }
        Err(error) if is_of_library(&error) => Err(error),
        Err(error) => Ok(fault_of(&error).map(|fault| {
            let unnamed = || Identity { uuid: format!("index {index}"), ..Identity::default() };
            faulty(known.get(&index).cloned().unwrap_or_else(unnamed), fault)
        })),
    }
}

fn faulty(identity: Identity, fault: DeviceFault) -> NvmlDevice {
    NvmlDevice { identity, fault: Some(fault), ..NvmlDevice::default() }
}

fn identify(device: &Device<'_>, uuid: String, calls: &Calls<'_>) -> Result<Identity, NvmlError> {
    let mut asking = Asking { calls, fault: None, library: None };
    let product = asking.figure("product name", || device.name()).unwrap_or_else(|| "unknown".to_owned());
    let pci_bus_id = asking.figure("PCI address", || device.pci_info()).map(|pci| pci.bus_id);
    let capability = asking.figure("compute capability", || device.cuda_compute_capability());
    let compute_capability = capability.map(|version| format!("{}.{}", version.major, version.minor));
    asking.library.map_or(Ok(Identity { uuid, product, pci_bus_id, compute_capability }), Err)
}

fn read(device: &Device<'_>, identity: Identity, calls: &Calls<'_>) -> Result<NvmlDevice, NvmlError> {
    let mut asking = Asking { calls, fault: None, library: None };
    let mut figures = NvmlDevice {
        identity,
        fault: None,
        memory: memory(device, &mut asking),
        utilization_ratio: asking
            .figure("utilization", || device.utilization_rates())
            .map(|rates| f64::from(rates.gpu) / 100.0),
        temperature_celsius: asking.figure("temperature", || device.temperature(TemperatureSensor::Gpu)).map(f64::from),
        power_watts: asking.figure("power", || device.power_usage()).map(from_milli),
        power_limit_watts: asking.figure("power limit", || device.enforced_power_limit()).map(from_milli),
        energy_joules: asking
            .figure("energy", || device.total_energy_consumption())
            .map(|millijoules| millijoules as f64 / 1000.0),
        ecc: ecc(device, &mut asking),
        throttled: throttled(device, &mut asking),
        parts: parts(device, &mut asking),
        processes: processes(device, &mut asking),
    };
    figures.fault = asking.fault;
    asking.library.map_or(Ok(figures), Err)
}

fn from_milli(value: u32) -> f64 {
    f64::from(value) / 1000.0
}

fn memory(device: &Device<'_>, asking: &mut Asking<'_>) -> Option<NvmlMemory> {
    let memory = asking.figure("memory", || device.memory_info())?;
    Some(NvmlMemory {
        total_bytes: memory.total,
        used_bytes: memory.used,
        reserved_bytes: memory.reserved,
        free_bytes: memory.free,
    })
}

fn ecc(device: &Device<'_>, asking: &mut Asking<'_>) -> Option<EccErrors> {
    let mut count = |kind| asking.figure("memory errors", || device.total_ecc_errors(kind, EccCounter::Volatile));
    let (corrected, uncorrected) = (count(MemoryError::Corrected)?, count(MemoryError::Uncorrected)?);
    Some(EccErrors { corrected, uncorrected })
}

fn throttled(device: &Device<'_>, asking: &mut Asking<'_>) -> Vec<&'static str> {
    let Some(now) = asking.figure("throttling", || device.current_throttle_reasons()) else { return Vec::new() };
    let named = THROTTLES.iter().zip(THROTTLE_REASONS);
    named.filter(|(reason, _)| now.contains(**reason)).map(|(_, name)| name).collect()
}

fn parts(device: &Device<'_>, asking: &mut Asking<'_>) -> Vec<MigInstance> {
    let divided = asking.figure("MIG mode", || device.mig_mode()).is_some_and(|mode| mode.current == 1);
    if !divided {
        return Vec::new();
    }
    let most = asking.figure("MIG count", || device.mig_device_count()).unwrap_or(0);
    let part = |index| {
        // places that hold no part are said to be not found
        let part = asking.figure("MIG handle", || device.mig_device_by_index(index))?;
        Some(MigInstance {
            uuid: asking.figure("MIG uuid", || part.uuid())?,
            name: asking.figure("MIG name", || part.name())?,
            total_bytes: asking.figure("MIG memory", || part.memory_info()).map(|memory| memory.total),
        })
    };
    (0..most).filter_map(part).collect()
}

fn processes(device: &Device<'_>, asking: &mut Asking<'_>) -> Option<Vec<NvmlProcess>> {
    let running = asking.figure("processes", || device.running_compute_processes())?;
    let process = |process: nvml_wrapper::struct_wrappers::device::ProcessInfo| NvmlProcess {
        pid: process.pid,
        bytes: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    };
    Some(running.into_iter().map(process).collect())
}

/// Asks one device, until an answer says that there is no use in more.
struct Asking<'a> {
    calls: &'a Calls<'a>,
    fault: Option<DeviceFault>,
    library: Option<NvmlError>,
}

impl Asking<'_> {
    fn figure<T>(&mut self, name: &'static str, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        if self.fault.is_some() || self.library.is_some() {
            return None;
        }
        match self.calls.make(name, call) {
            Ok(figure) => Some(figure),
            Err(error) => {
                self.fault = fault_of(&error);
                // an unknown error of one figure is that figure's; of a handle it is the library's
                let of_library = is_of_library(&error) && !matches!(error, NvmlError::Unknown);
                self.library = of_library.then_some(error);
                None
            }
        }
    }
}

/// What an answer says about the device's end.
pub(super) fn fault_of(error: &NvmlError) -> Option<DeviceFault> {
    match error {
        NvmlError::GpuLost => Some(DeviceFault::Lost),
        NvmlError::ResetRequired => Some(DeviceFault::ResetRequired),
        _ => None,
    }
}

/// Answers after which the library must be opened anew.
pub(super) fn is_of_library(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch | NvmlError::Unknown
    )
}

/// An error's name as a label; none for answers that are no errors.
pub(super) fn code(error: &NvmlError) -> Option<&'static str> {
    Some(match error {
        NvmlError::NotSupported | NvmlError::NotFound | NvmlError::NoData | NvmlError::Timeout => return None,
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => return None,
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => "library_not_found",
        NvmlError::Uninitialized => "uninitialized",
        NvmlError::NoPermission => "no_permission",
        NvmlError::DriverNotLoaded => "driver_not_loaded",
        NvmlError::LibRmVersionMismatch => "version_mismatch",
        NvmlError::GpuLost => "gpu_lost",
        NvmlError::ResetRequired => "reset_required",
        NvmlError::OperatingSystem => "operating_system",
        NvmlError::IrqIssue => "irq_issue",
        NvmlError::Unknown => "unknown",
        _ => "other",
    })
}

/// Every label that `code` gives.
pub const CODES: [&str; 11] = [
    "library_not_found",
    "uninitialized",
    "no_permission",
    "driver_not_loaded",
    "version_mismatch",
    "gpu_lost",
    "reset_required",
    "operating_system",
    "irq_issue",
    "unknown",
    "other",
];
