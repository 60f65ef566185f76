//! Architectures: a config, from `config.json` or from the tensors themselves, and the graph that it means.
//!
//! Widths and depths always come from the config or the tensors, never from a table of known models.

pub mod clip;
#[cfg(test)]
mod golden;
pub(crate) mod settings;
pub mod tiny;
pub mod unet2d;
pub mod vae;
