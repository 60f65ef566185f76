//! The device layer over scripted stand-ins for the vendor's libraries, as far as that goes without the hardware.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod nvml;
mod onnx;
mod support;
