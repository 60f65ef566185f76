//! The layers of an AutoencoderTiny, from its `config.json` or from its tensors.

use serde_json::{Value, json};

use crate::{
    arch::settings::{MOST_LEVELS, Settings},
    error::EngineError,
    weights::TensorFacts,
};

pub(super) const NAME: &str = "AutoencoderTiny";

/// One half: blocks and channels of each level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    /// Residual blocks of each level.
    pub blocks: Vec<usize>,
    /// Channels of each level.
    pub channels: Vec<usize>,
}

/// What an AutoencoderTiny is.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the decoded image.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// The encoder; none in a file of the decoder alone.
    pub encoder: Option<Half>,
    /// The decoder; none in a file of the encoder alone.
    pub decoder: Option<Half>,
    /// What latents are multiplied by before a UNet sees them.
    pub scaling_factor: f32,
    /// What is subtracted from latents before.
    pub shift_factor: f32,
}

impl Config {
    /// Reads the `config.json` of a diffusers folder.
    ///
    /// # Errors
    /// A field of another kind, or a feature that this architecture does not have.
    pub fn from_json(config: &Value) -> Result<Self, EngineError> {
        let fields = Settings::new(NAME, config)?;
        fields.only("_class_name", &[json!(NAME)])?;
        fields.only("act_fn", &[json!("relu")])?;
        fields.only("upsample_fn", &[json!("nearest")])?;
        fields.only("upsampling_scaling_factor", &[json!(2)])?;
        let half = |name: &str, default: [usize; 4]| -> Result<Half, EngineError> {
            let blocks = fields.layers_per_level(&format!("num_{name}_blocks"), &default)?;
            let field = format!("{name}_block_out_channels");
            let channels = fields.positives(&field, &[64; 4])?;
            if blocks.len() == channels.len() {
                return Ok(Half { blocks, channels });
            }
            Err(fields.wrong(&field, fields.find(&field).unwrap_or(&Value::Null), "as many numbers as levels"))
        };
        Ok(Self {
            in_channels: fields.positive("in_channels", 3)?,
            out_channels: fields.positive("out_channels", 3)?,
            latent_channels: fields.positive("latent_channels", 4)?,
            encoder: Some(half("encoder", [1, 3, 3, 3])?),
            decoder: Some(half("decoder", [3, 3, 3, 1])?),
            scaling_factor: fields.float("scaling_factor", 1.0)?,
            shift_factor: fields.float("shift_factor", 0.0)?,
        })
    }

    /// Infers the layers from the tensors. They were trained on the latents that a UNet sees, so nothing is scaled.
    ///
    /// # Errors
    /// When the tensors are not those of an AutoencoderTiny.
    pub fn infer(facts: &TensorFacts) -> Result<Self, EngineError> {
        let (encoder, decoder) = (half(facts, "encoder", false)?, half(facts, "decoder", true)?);
        let side = |name: Option<String>, axis: usize| name.and_then(|name| facts.side(&name, axis));
        let last = |name: &str| last(facts, name).map(|layer| format!("{name}.layers.{layer}.weight"));
        let latent = side(Some("decoder.layers.0.weight".to_owned()), 1).or_else(|| side(last("encoder"), 0));
        let Some(latent_channels) = latent else {
            let (architecture, first) = (NAME.to_owned(), "decoder.layers.0.weight".to_owned());
            return Err(EngineError::MissingWeights { architecture, count: 1, first });
        };
        Ok(Self {
            in_channels: side(Some("encoder.layers.0.weight".to_owned()), 1).unwrap_or(3),
            out_channels: side(last("decoder"), 0).unwrap_or(3),
            latent_channels,
            encoder,
            decoder,
            scaling_factor: 1.0,
            shift_factor: 0.0,
        })
    }

    /// Pixels of the image per latent, along one side.
    #[must_use]
    pub fn scale(&self) -> usize {
        let half = self.decoder.as_ref().or(self.encoder.as_ref());
        1 << half.map_or(0, |half| half.blocks.len().saturating_sub(1)).min(16)
    }
}

/// The number of the last layer of a half.
fn last(facts: &TensorFacts, half: &str) -> Option<usize> {
    numbers(facts, half).last().copied()
}

/// The numbers of the layers that have weights, in order.
fn numbers(facts: &TensorFacts, half: &str) -> Vec<usize> {
    let prefix = format!("{half}.layers.");
    let number = |(name, _): (&str, _)| name.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
    let mut numbers: Vec<usize> = facts.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Levels of a half: runs of blocks between single convolutions. A level of the encoder begins with its convolution, one
/// of the decoder ends with it (before stands the activation or the upsampling, which have no weights).
fn half(facts: &TensorFacts, half: &str, ends: bool) -> Result<Option<Half>, EngineError> {
    let layers = numbers(facts, half);
    if layers.is_empty() {
        return Ok(None);
    }
    let (mut blocks, mut channels) = (Vec::new(), Vec::new());
    // the first convolution of the decoder and the last one of the encoder belong to no level
    let inner = if ends { layers.get(1..) } else { layers.get(..layers.len().saturating_sub(1)) };
    let mut count = 0;
    for layer in inner.unwrap_or_default() {
        let convolution = facts.shape(&format!("{half}.layers.{layer}.weight"));
        match (convolution, ends) {
            (None, _) => {
                count += 1;
                if let Some(level) = blocks.last_mut().filter(|_| !ends) {
                    *level = count;
                }
            }
            (Some(shape), true) => {
                blocks.push(count);
                channels.push(shape.get(1).copied().unwrap_or(0));
                count = 0;
            }
            (Some(shape), false) => {
                blocks.push(0);
                channels.push(shape.first().copied().unwrap_or(0));
                count = 0;
            }
        }
    }
    if blocks.len() > MOST_LEVELS {
        return Err(EngineError::Config {
            architecture: NAME,
            field: half.to_owned(),
            found: format!("{} levels", blocks.len()),
            expected: format!("at most {MOST_LEVELS}"),
        });
    }
    if blocks.is_empty() {
        let (architecture, first) = (NAME.to_owned(), format!("{half}.layers.0.weight"));
        return Err(EngineError::MissingWeights { architecture, count: 1, first });
    }
    Ok(Some(Half { blocks, channels }))
}
