//! Devices that hold weights: one trait, `cpu:0` and `cuda:N` behind it, one contract for both.
//!
//! A device is owned by one thread of one runner process. It hands out slabs, one per component; a slab is written in
//! chunks, read back for verification, and given back as a whole. Nothing here knows models or jobs.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod cpu;
mod cuda;
mod device;
pub mod nvml;
pub mod onnx;
mod probe;
#[cfg(test)]
mod scripted;

pub use cpu::CpuDevice;
pub use cuda::CudaDevice;
pub use device::{ALIGN, CudaShare, Device, DeviceError, DeviceFacts, DeviceMemory, Share, SlabId, open};
pub use probe::{CudaReport, DeviceCandidate, probe};
