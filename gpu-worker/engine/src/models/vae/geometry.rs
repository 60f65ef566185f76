//! What differs between kinds of VAE: graphs, scales, how tiles are cut and joined, what memory a run's largest value takes.

use serde_json::Value;

use super::{
    settings::Tiling,
    tiling::{Cut, Joining},
};
use crate::{
    arch::{tiny, vae},
    error::EngineError,
    graph::{Emitted, Provider, StorageTypes},
    tensor::ElementType,
    weights::TensorFacts,
};

/// Side of a tile of a tiny autoencoder, in pixels.
const TINY_TILE: usize = 512;
/// Bytes of a value in a run.
const VALUE_BYTES: u64 = 4;

/// The kinds of VAE.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// AutoencoderKL.
    Kl(vae::Config),
    /// AutoencoderTiny.
    Tiny(tiny::Config),
}

impl Architecture {
    /// From the config where there is one, else inferred.
    ///
    /// # Errors
    /// Those of [`Self::from_json`] and [`Self::infer`].
    pub fn read(config: Option<&Value>, facts: &TensorFacts, base: Option<&str>) -> Result<Self, EngineError> {
        match config {
            Some(config) => Self::from_json(config),
            None => Self::infer(facts, base),
        }
    }

    /// Reads a component's `config.json`.
    ///
    /// # Errors
    /// When it is the config of something else, or names what no graph here has.
    pub fn from_json(config: &Value) -> Result<Self, EngineError> {
        match config.get("_class_name").and_then(Value::as_str) {
            Some("AutoencoderTiny") => tiny::Config::from_json(config).map(Self::Tiny),
            _ => vae::Config::from_json(config).map(Self::Kl),
        }
    }

    /// Infers it from the tensors and the base.
    ///
    /// # Errors
    /// When the tensors are of no known VAE.
    pub fn infer(facts: &TensorFacts, base: Option<&str>) -> Result<Self, EngineError> {
        if facts.has_prefix("decoder.layers.") || facts.has_prefix("encoder.layers.") {
            return tiny::Config::infer(facts).map(Self::Tiny);
        }
        vae::Config::infer(facts, base).map(Self::Kl)
    }

    /// The class that diffusers has for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kl(_) => "AutoencoderKL",
            Self::Tiny(_) => "AutoencoderTiny",
        }
    }

    pub(super) fn decoder(
        &self,
        provider: Provider,
        compute: ElementType,
        storage: &dyn StorageTypes,
    ) -> Result<Emitted, EngineError> {
        match self {
            Self::Kl(config) => vae::decoder(config, provider, compute, storage),
            Self::Tiny(config) => tiny::decoder(config, provider, compute, storage),
        }
    }

    pub(super) fn encoder(
        &self,
        provider: Provider,
        compute: ElementType,
        storage: &dyn StorageTypes,
    ) -> Result<Emitted, EngineError> {
        match self {
            Self::Kl(config) => vae::encoder(config, provider, compute, storage),
            Self::Tiny(config) => tiny::encoder(config, provider, compute, storage),
        }
    }

    /// Channels of the image.
    #[must_use]
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.in_channels,
            Self::Tiny(config) => config.in_channels,
        }
    }

    /// Channels of the latents.
    #[must_use]
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
        }
    }

    /// Pixels per latent along one side.
    #[must_use]
    pub fn scale(&self) -> usize {
        match self {
            Self::Kl(config) => config.scale(),
            Self::Tiny(config) => config.scale(),
        }
    }

    /// What latents are multiplied by before a UNet sees them.
    #[must_use]
    pub fn scaling_factor(&self) -> Option<f32> {
        match self {
            Self::Kl(config) => config.scaling_factor,
            Self::Tiny(config) => Some(config.scaling_factor),
        }
    }

    /// What is subtracted before that.
    #[must_use]
    pub fn shift_factor(&self) -> f32 {
        match self {
            Self::Kl(config) => config.shift_factor,
            Self::Tiny(config) => config.shift_factor,
        }
    }

    pub(super) fn force_upcast(&self) -> bool {
        matches!(self, Self::Kl(config) if config.force_upcast)
    }

    /// Whether the encoder gives mean and variance instead of latents.
    pub(super) fn has_moments(&self) -> bool {
        matches!(self, Self::Kl(_))
    }

    /// The tiling that diffusers would use.
    #[must_use]
    pub fn default_tiling(&self) -> Tiling {
        match self {
            Self::Kl(config) => Tiling { size: config.sample_size, overlap: 0.25 },
            Self::Tiny(_) => Tiling { size: TINY_TILE, overlap: 0.125 },
        }
    }

    /// The cut of the input of a decoder or encoder into tiles.
    pub(super) fn cut(&self, tiling: Tiling, decodes: bool) -> Cut {
        let scale = self.scale();
        let joining = match self {
            Self::Kl(_) => Joining::Blended,
            Self::Tiny(_) => Joining::Masked,
        };
        Cut::new((tiling.size / scale).max(1), scale, tiling.overlap, joining, decodes)
    }

    /// Bytes of the largest value of a decoder run over latents of this size.
    pub(super) fn decode_bytes(&self, batch: usize, (height, width): (usize, usize)) -> u64 {
        let levels: Vec<usize> = match self {
            Self::Kl(config) => config.block_out_channels.iter().copied().rev().collect(),
            Self::Tiny(config) => config.decoder.iter().flat_map(|half| half.channels.clone()).collect(),
        };
        // a level begins with the channels of the one before it
        let channels = levels.iter().enumerate().map(|(at, own)| (*own).max(levels[at.saturating_sub(1)]));
        let bytes = channels.enumerate().map(|(at, channels)| bytes(batch, channels, (height << at, width << at)));
        bytes.max().unwrap_or(0)
    }

    /// Bytes of the largest value of an encoder run over an image of this size.
    pub(super) fn encode_bytes(&self, batch: usize, (height, width): (usize, usize)) -> u64 {
        let levels: Vec<usize> = match self {
            Self::Kl(config) => config.block_out_channels.clone(),
            Self::Tiny(config) => config.encoder.iter().flat_map(|half| half.channels.clone()).collect(),
        };
        let bytes =
            levels.iter().enumerate().map(|(at, channels)| bytes(batch, *channels, (height >> at, width >> at)));
        bytes.max().unwrap_or(0)
    }
}

fn bytes(batch: usize, channels: usize, (height, width): (usize, usize)) -> u64 {
    let sides = [batch, channels, height, width].map(|side| side as u64);
    sides.into_iter().fold(VALUE_BYTES, u64::saturating_mul)
}
