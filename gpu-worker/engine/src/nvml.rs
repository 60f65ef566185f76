//! What the vendor's management library says of a device. Every answer may be absent; none of them decides anything.

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

use crate::device::DeviceHealth;

/// One device as the management library sees it.
#[derive(Debug)]
pub(crate) struct Nvml {
    library: nvml_wrapper::Nvml,
    uuid: String,
}

impl Nvml {
    /// The library and the device, when both are there.
    pub(crate) fn for_uuid(uuid: &str) -> Option<Self> {
        let library = nvml_wrapper::Nvml::init().ok()?;
        library.device_by_uuid(uuid).ok()?;
        Some(Self { library, uuid: uuid.to_owned() })
    }

    fn device(&self) -> Option<nvml_wrapper::Device<'_>> {
        self.library.device_by_uuid(self.uuid.as_str()).ok()
    }

    /// Bytes that this process holds on the device, context included.
    pub(crate) fn own_bytes(&self) -> Option<u64> {
        use nvml_wrapper::enums::device::UsedGpuMemory;
        let processes = self.device()?.running_compute_processes().ok()?;
        let own = processes.into_iter().find(|process| process.pid == std::process::id())?;
        match own.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        }
    }

    /// Utilization and temperature.
    pub(crate) fn health(&self) -> DeviceHealth {
        let Some(device) = self.device() else { return DeviceHealth::default() };
        DeviceHealth {
            utilization_ratio: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        }
    }
}
