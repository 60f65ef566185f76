//! Sizes of every architecture at both scales.

use super::options::Scale;

/// A UNet; one entry per level, the first at full resolution.
#[derive(Debug, Clone)]
pub(super) struct UnetSize {
    pub(super) channels: Vec<u64>,
    /// Transformer blocks per attention; 0 = the level has no attention.
    pub(super) depth: Vec<u64>,
    pub(super) mid_depth: u64,
    pub(super) layers: u64,
    /// Attention heads per level.
    pub(super) heads: Vec<u64>,
    /// Width of the text conditioning.
    pub(super) context: u64,
    /// `proj_in` and `proj_out` are linear, not 1×1 convolutions.
    pub(super) linear_projection: bool,
    /// Size and pooled-text conditioning: input width, width of one number's sinusoid.
    pub(super) added: Option<(u64, u64)>,
    /// Latent size of one side.
    pub(super) sample: u64,
}

/// A VAE.
#[derive(Debug, Clone)]
pub(super) struct VaeSize {
    pub(super) channels: Vec<u64>,
    pub(super) latent: u64,
    /// Has `quant_conv` and `post_quant_conv`.
    pub(super) quant: bool,
    pub(super) scaling: f64,
    pub(super) shift: Option<f64>,
    /// Pixel size of one side.
    pub(super) sample: u64,
    pub(super) force_upcast: bool,
}

/// A CLIP text encoder.
#[derive(Debug, Clone)]
pub(super) struct ClipSize {
    /// The encoder's own name; files of several families share its values.
    pub(super) key: &'static str,
    pub(super) width: u64,
    pub(super) layers: u64,
    /// Layers that only the original file keeps (SD2 uses the penultimate output).
    pub(super) spare_layers: u64,
    pub(super) heads: u64,
    pub(super) activation: &'static str,
    pub(super) vocabulary: u64,
    /// Has a projection in the diffusers layout.
    pub(super) projected: bool,
}

/// Positions of every CLIP text encoder.
pub(super) const POSITIONS: u64 = 77;

/// Tokens of a vocabulary: the release's, or 512 byte symbols, 286 merges and two marks.
pub(super) const fn vocabulary(scale: Scale) -> u64 {
    match scale {
        Scale::Tiny => 800,
        Scale::Real => 49_408,
    }
}

/// CLIP-L.
pub(super) const fn clip_l(scale: Scale) -> ClipSize {
    let (width, layers, heads) = match scale {
        Scale::Tiny => (32, 2, 4),
        Scale::Real => (768, 12, 12),
    };
    let (activation, vocabulary) = ("quick_gelu", vocabulary(scale));
    ClipSize { key: "clip-l", width, layers, spare_layers: 0, heads, activation, vocabulary, projected: false }
}

/// OpenCLIP-H as SD2 uses it.
pub(super) const fn clip_h(scale: Scale) -> ClipSize {
    let (width, layers, heads) = match scale {
        Scale::Tiny => (48, 2, 4),
        Scale::Real => (1024, 23, 16),
    };
    let (activation, vocabulary) = ("gelu", vocabulary(scale));
    ClipSize { key: "clip-h", width, layers, spare_layers: 1, heads, activation, vocabulary, projected: false }
}

/// OpenCLIP-G as SDXL uses it.
pub(super) const fn clip_g(scale: Scale) -> ClipSize {
    let (width, layers, heads) = match scale {
        Scale::Tiny => (64, 3, 4),
        Scale::Real => (1280, 32, 20),
    };
    let (activation, vocabulary) = ("gelu", vocabulary(scale));
    ClipSize { key: "clip-g", width, layers, spare_layers: 0, heads, activation, vocabulary, projected: true }
}

fn channels(scale: Scale, real: &[u64], tiny: &[u64]) -> Vec<u64> {
    match scale {
        Scale::Tiny => tiny.to_vec(),
        Scale::Real => real.to_vec(),
    }
}

/// Heads of a fixed width: 64 in the releases, 16 in the reduced models.
fn heads(scale: Scale, channels: &[u64]) -> Vec<u64> {
    let width = match scale {
        Scale::Tiny => 16,
        Scale::Real => 64,
    };
    channels.iter().map(|channels| channels / width).collect()
}

const fn pick(scale: Scale, real: u64, tiny: u64) -> u64 {
    match scale {
        Scale::Tiny => tiny,
        Scale::Real => real,
    }
}

/// SD 1.5: eight heads on every level.
pub(super) fn unet_sd15(scale: Scale) -> UnetSize {
    let channels = channels(scale, &[320, 640, 1280, 1280], &[32, 64, 96, 96]);
    let (heads, context) = (vec![8; channels.len()], clip_l(scale).width);
    let sample = pick(scale, 64, 8);
    let (depth, mid_depth) = (vec![1, 1, 1, 0], 1);
    UnetSize { channels, depth, mid_depth, layers: 2, heads, context, linear_projection: false, added: None, sample }
}

/// SD 2.1 for 768 pixels.
pub(super) fn unet_sd21(scale: Scale) -> UnetSize {
    let (sd15, context) = (unet_sd15(scale), clip_h(scale).width);
    let (heads, sample) = (heads(scale, &sd15.channels), pick(scale, 96, 8));
    UnetSize { heads, context, linear_projection: true, sample, ..sd15 }
}

/// SDXL base.
pub(super) fn unet_sdxl(scale: Scale) -> UnetSize {
    let channels = channels(scale, &[320, 640, 1280], &[32, 64, 96]);
    let deepest = pick(scale, 10, 2);
    let (depth, heads) = (vec![0, pick(scale, 2, 1), deepest], heads(scale, &channels));
    let context = clip_l(scale).width + clip_g(scale).width;
    let (added, sample) = (added(scale, 6), pick(scale, 128, 16));
    UnetSize { channels, depth, mid_depth: deepest, layers: 2, heads, context, linear_projection: true, added, sample }
}

/// SDXL refiner.
pub(super) fn unet_refiner(scale: Scale) -> UnetSize {
    let channels = channels(scale, &[384, 768, 1536, 1536], &[32, 64, 96, 96]);
    let deep = pick(scale, 4, 2);
    let (heads, context) = (heads(scale, &channels), clip_g(scale).width);
    let (added, sample, depth) = (added(scale, 5), pick(scale, 128, 16), vec![0, deep, deep, 0]);
    UnetSize { channels, depth, mid_depth: deep, layers: 2, heads, context, linear_projection: true, added, sample }
}

/// The pooled text and so many numbers.
const fn added(scale: Scale, numbers: u64) -> Option<(u64, u64)> {
    let each = pick(scale, 256, 8);
    Some((clip_g(scale).width + numbers * each, each))
}

/// The VAE of SD 1.x and 2.x.
pub(super) fn vae_sd(scale: Scale) -> VaeSize {
    let channels = channels(scale, &[128, 256, 512, 512], &[32, 64, 96, 96]);
    let sample = pick(scale, 512, 64);
    VaeSize { channels, latent: 4, quant: true, scaling: 0.18215, shift: None, sample, force_upcast: true }
}

/// The VAE of SDXL: the same shapes with other scaling.
pub(super) fn vae_sdxl(scale: Scale) -> VaeSize {
    VaeSize { scaling: 0.13025, sample: pick(scale, 1024, 128), ..vae_sd(scale) }
}

/// The VAE of SD3.
pub(super) fn vae16(scale: Scale) -> VaeSize {
    let sd = vae_sd(scale);
    let (scaling, shift, sample) = (1.5305, Some(0.0609), pick(scale, 1024, 128));
    VaeSize { latent: 16, quant: false, scaling, shift, sample, ..sd }
}

/// Channels of the tiny preview autoencoder.
pub(super) const fn taesd(scale: Scale) -> u64 {
    pick(scale, 64, 16)
}

/// Channels of a ControlNet's hint encoder.
pub(super) fn hint(scale: Scale) -> Vec<u64> {
    channels(scale, &[16, 32, 96, 256], &[8, 16, 16, 32])
}

/// Rank and alpha of the LoRAs.
pub(super) const fn lora(scale: Scale) -> (u64, f32) {
    match scale {
        Scale::Tiny => (4, 2.0),
        Scale::Real => (32, 16.0),
    }
}

/// Vectors of a textual inversion.
pub(super) const EMBEDDING_VECTORS: u64 = 4;
