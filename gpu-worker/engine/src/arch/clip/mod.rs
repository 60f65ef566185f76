//! CLIP text encoders: CLIP-L of OpenAI, OpenCLIP's H and bigG, with or without projection, of any width and depth.

mod config;
mod emit;
mod infer;

pub use config::{Activation, Config, EndOfText, Role};
