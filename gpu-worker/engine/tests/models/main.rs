//! Emitted graphs against numbers made elsewhere, on a real ONNX Runtime. Its library is found through
//! `MODELYARD_ONNXRUNTIME`; without it these tests say that they are skipped.

mod layers;
mod support;
