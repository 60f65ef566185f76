//! Emitted graphs against numbers made elsewhere, on a real ONNX Runtime. Its library is found through
//! `MODELYARD_ONNXRUNTIME`; without it these tests say that they are skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod chunks;
mod clip;
mod forward;
mod golden;
mod layers;
mod loras;
mod made;
mod measure;
mod pipeline;
mod sessions;
mod stacks;
mod support;
mod unet;
mod vae;
