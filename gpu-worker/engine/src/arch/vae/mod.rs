//! AutoencoderKL: the image autoencoder of Stable Diffusion 1 to 3 and of FLUX.

mod blocks;
mod config;
mod graphs;

pub use config::Config;
pub use graphs::{decoder, encoder, tensors};
