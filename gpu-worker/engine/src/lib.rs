//! Devices that hold weights, and the models that run from them.
//!
//! Devices: one trait, `cpu:0` and `cuda:N` behind it, one contract for both. A device is owned by one thread of one
//! runner process. It hands out slabs, one per component; a slab is written in chunks, read back for verification, and
//! given back as a whole.
//!
//! Models: an architecture emits an ONNX graph (`graph`) whose weights are inputs; the runtime (`runtime`) keeps one
//! session per graph and binds to it, for each run, the memory that holds the weights (`weights`). So a session holds no
//! weights, and another checkpoint of the same architecture is another binding. Nothing here knows jobs.

pub mod arch;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod cpu;
mod cuda;
mod device;
pub mod error;
pub mod forward;
pub mod generate;
pub mod graph;
pub mod images;
pub mod latents_io;
pub mod lora;
mod mapped;
pub mod measure;
mod memory_file;
pub mod models;
pub mod noise;
pub mod nvml;
pub mod onnx;
mod probe;
pub mod prompt;
pub mod runtime;
pub mod samplers;
#[cfg(test)]
mod scripted;
pub mod statistics;
pub mod tensor;
pub mod tokenize;
mod view;
pub mod weights;
mod writer;

pub use cpu::CpuDevice;
pub use cuda::CudaDevice;
pub use device::{ALIGN, CudaShare, Device, DeviceError, DeviceFacts, DeviceMemory, Share, SlabId, open};
pub use error::EngineError;
pub use probe::{CudaReport, DeviceCandidate, probe};
pub use runtime::{Cancel, Control, Estimator, Learned, Runtime, RuntimeOptions, Session};
pub use tensor::{ElementType, Tensor, TensorData};
pub use view::{Place, SlabView};
pub use weights::{TensorFact, TensorFacts, Weights};
pub use writer::{SlabWriter, merge_all};
