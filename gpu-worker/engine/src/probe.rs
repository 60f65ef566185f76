//! Which CUDA devices this machine has, and why there are none.

use serde::Serialize;

use crate::cuda;

/// A device that can be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceCandidate {
    /// `cuda:1`.
    pub name: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CudaReport {
    /// True when at least one device is there.
    pub available: bool,
    /// Devices.
    pub devices: Vec<DeviceCandidate>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Looks, without opening any device.
pub fn probe() -> CudaReport {
    let none = |reason: String| CudaReport { available: false, devices: Vec::new(), reason: Some(reason) };
    if !cuda::driver_present() {
        return none("the CUDA driver library is not on this machine".to_owned());
    }
    // a driver older than the bindings lacks symbols, and the bindings panic at the first use of one
    let counted = std::panic::catch_unwind(cuda::count);
    let Ok(counted) = counted else { return none("the CUDA driver library is too old for this build".to_owned()) };
    match counted {
        Ok(0) => none("the driver shows no device".to_owned()),
        Ok(count) => {
            let devices = (0..count).map(|ordinal| DeviceCandidate { name: format!("cuda:{ordinal}") }).collect();
            CudaReport { available: true, devices, reason: None }
        }
        Err(reason) => none(reason),
    }
}
