//! How a VAE works: what an operator may set, each with a default that the config gives.

/// Settings of one VAE.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VaeSettings {
    /// One image of a batch at a time: less memory.
    pub slicing: bool,
    /// Tiles with overlap: memory no longer grows with the image. Without it an image is tiled only where its estimate
    /// does not fit.
    pub tiling: Option<Tiling>,
    /// Computes in 32-bit floats though the weights are shorter; the config's word where it is not set.
    pub upcast: Option<bool>,
    /// What latents are multiplied by before a UNet sees them; the config's or base's where it is not set.
    pub scaling_factor: Option<f32>,
    /// What is subtracted before that.
    pub shift_factor: Option<f32>,
}

/// Tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Side of a tile in pixels of the image.
    pub size: usize,
    /// Part of a tile's side that it shares with its neighbour, 0 to below 1.
    pub overlap: f32,
}
