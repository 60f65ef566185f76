//! The UNets of SD 1, SD 2, SDXL and its refiner, and what is trained from them: any widths, depths and layers.

mod blocks;
mod config;
mod depth;
mod embed;
mod emit;
mod estimate;
mod infer;
mod json;

pub use config::{Added, Config, Level, Middle};

#[cfg(test)]
mod tests;
