//! The sizes of an AutoencoderKL, from its `config.json` or from its tensors.

use serde_json::{Value, json};

use crate::{
    arch::settings::{MOST_LEVELS, Settings},
    error::EngineError,
    weights::TensorFacts,
};

pub(super) const NAME: &str = "AutoencoderKL";
/// Groups of every group norm in all released models; no tensor shows it.
const GROUPS: usize = 32;

/// What an AutoencoderKL is.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the decoded image.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, from the image's size downwards.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle has attention.
    pub mid_block_add_attention: bool,
    /// What latents are multiplied by before a UNet sees them; none where nothing tells.
    pub scaling_factor: Option<f32>,
    /// What is subtracted from latents before.
    pub shift_factor: f32,
    /// Side of the images that it was trained on: the size of tiles.
    pub sample_size: usize,
    /// Whether 16-bit floats are too short for it.
    pub force_upcast: bool,
}

impl Config {
    /// Reads the `config.json` of a diffusers folder; fields that are not there have the library's defaults.
    ///
    /// # Errors
    /// A field of another kind, or a feature that this architecture does not have.
    pub fn from_json(config: &Value) -> Result<Self, EngineError> {
        let fields = Settings::new(NAME, config)?;
        fields.only("_class_name", &[json!(NAME)])?;
        fields.each("down_block_types", "DownEncoderBlock2D")?;
        fields.each("up_block_types", "UpDecoderBlock2D")?;
        fields.only("act_fn", &[json!("silu"), json!("swish")])?;
        fields.only("latents_mean", &[])?;
        fields.only("latents_std", &[])?;
        let config = Self {
            in_channels: fields.positive("in_channels", 3)?,
            out_channels: fields.positive("out_channels", 3)?,
            latent_channels: fields.positive("latent_channels", 4)?,
            block_out_channels: fields.positives("block_out_channels", &[64])?,
            layers_per_block: fields.layers("layers_per_block", 1)?,
            norm_num_groups: fields.positive("norm_num_groups", GROUPS)?,
            use_quant_conv: fields.flag("use_quant_conv", true)?,
            use_post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: fields.flag("mid_block_add_attention", true)?,
            scaling_factor: Some(fields.float("scaling_factor", 0.18215)?),
            shift_factor: fields.float("shift_factor", 0.0)?,
            sample_size: sample_size(&fields)?,
            force_upcast: fields.flag("force_upcast", true)?,
        };
        config.checked()
    }

    /// Infers the sizes from the tensors; what tensors do not show comes from the base, where it is known.
    ///
    /// # Errors
    /// When the tensors are not those of an AutoencoderKL.
    pub fn infer(facts: &TensorFacts, base: Option<&str>) -> Result<Self, EngineError> {
        let channels = levels(facts)?;
        let side = |name: &str, axis: usize| facts.side(name, axis);
        let latent = side("decoder.conv_in.weight", 1).or_else(|| Some(side("encoder.conv_out.weight", 0)? / 2));
        let latent_channels = latent.ok_or_else(|| missing("decoder.conv_in.weight"))?;
        let encoder_layers = facts.count("encoder.down_blocks.0.resnets.");
        let decoder_layers = facts.count("decoder.up_blocks.0.resnets.");
        let known = known(base, latent_channels);
        let config = Self {
            in_channels: side("encoder.conv_in.weight", 1).unwrap_or(3),
            out_channels: side("decoder.conv_out.weight", 0).unwrap_or(3),
            latent_channels,
            block_out_channels: channels,
            layers_per_block: if encoder_layers > 0 { encoder_layers } else { decoder_layers.saturating_sub(1) },
            norm_num_groups: GROUPS,
            use_quant_conv: facts.has("quant_conv.weight"),
            use_post_quant_conv: facts.has("post_quant_conv.weight"),
            mid_block_add_attention: facts.has_prefix("decoder.mid_block.attentions.0.")
                || facts.has_prefix("encoder.mid_block.attentions.0."),
            scaling_factor: known.map(|known| known.scaling_factor),
            shift_factor: known.map_or(0.0, |known| known.shift_factor),
            sample_size: known.map_or(512, |known| known.sample_size),
            force_upcast: known.is_none_or(|known| known.force_upcast),
        };
        config.checked()
    }

    /// The same with what the base fixes and neither tensors nor a graph show.
    pub(crate) fn of_base(self, base: Option<&str>) -> Self {
        let known = known(base, self.latent_channels);
        Self {
            scaling_factor: known.map(|known| known.scaling_factor),
            shift_factor: known.map_or(0.0, |known| known.shift_factor),
            sample_size: known.map_or(512, |known| known.sample_size),
            ..self
        }
    }

    fn checked(self) -> Result<Self, EngineError> {
        let odd = self.block_out_channels.iter().find(|channels| !channels.is_multiple_of(self.norm_num_groups));
        if let Some(channels) = odd {
            return Err(EngineError::Config {
                architecture: NAME,
                field: "block_out_channels".to_owned(),
                found: channels.to_string(),
                expected: format!("a multiple of the {} groups of its norms", self.norm_num_groups),
            });
        }
        if self.block_out_channels.len() > MOST_LEVELS {
            return Err(EngineError::Config {
                architecture: NAME,
                field: "block_out_channels".to_owned(),
                found: format!("{} levels", self.block_out_channels.len()),
                expected: format!("at most {MOST_LEVELS}"),
            });
        }
        if self.layers_per_block == 0 {
            return Err(missing("encoder.down_blocks.0.resnets.0.conv1.weight"));
        }
        Ok(self)
    }

    /// Pixels of the image per latent, along one side.
    #[must_use]
    pub fn scale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(16)
    }
}

fn missing(name: &str) -> EngineError {
    EngineError::MissingWeights { architecture: NAME.to_owned(), count: 1, first: name.to_owned() }
}

fn sample_size(fields: &Settings<'_>) -> Result<usize, EngineError> {
    match fields.find("sample_size") {
        Some(Value::Array(_)) => Ok(fields.positives("sample_size", &[32])?.first().copied().unwrap_or(32)),
        _ => fields.positive("sample_size", 32),
    }
}

/// Channels by level, from whichever half is there.
fn levels(facts: &TensorFacts) -> Result<Vec<usize>, EngineError> {
    let downs = facts.count("encoder.down_blocks.");
    let ups = facts.count("decoder.up_blocks.");
    let level = |half: &str, level: usize| {
        let name = format!("{half}.{level}.resnets.0.conv1.weight");
        facts.side(&name, 0).ok_or_else(|| missing(&name))
    };
    if downs > 0 {
        (0..downs).map(|at| level("encoder.down_blocks", at)).collect()
    } else if ups > 0 {
        (0..ups).rev().map(|at| level("decoder.up_blocks", at)).collect()
    } else {
        Err(missing("decoder.up_blocks.0.resnets.0.conv1.weight"))
    }
}

/// What a base fixes and no tensor shows.
#[derive(Debug, Clone, Copy)]
struct Known {
    scaling_factor: f32,
    shift_factor: f32,
    sample_size: usize,
    force_upcast: bool,
}

fn known(base: Option<&str>, latent_channels: usize) -> Option<Known> {
    let of = |scaling_factor, shift_factor, sample_size, force_upcast| {
        Some(Known { scaling_factor, shift_factor, sample_size, force_upcast })
    };
    match base {
        Some("sd15") => of(0.18215, 0.0, 512, false),
        Some("sd21") => of(0.18215, 0.0, 768, false),
        Some("sdxl" | "sdxl-refiner") => of(0.13025, 0.0, 1024, true),
        Some("sd3") => of(1.5305, 0.0609, 1024, true),
        Some("flux") => of(0.3611, 0.1159, 1024, true),
        // four channels without a base: diffusers' default
        _ if latent_channels == 4 => of(0.18215, 0.0, 512, true),
        _ => None,
    }
}
