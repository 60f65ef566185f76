//! What a `UNet2DConditionModel` is made of.

use serde_json::Value;

use super::{infer, json};
use crate::{error::EngineError, weights::TensorFacts};

pub(super) const MODEL: &str = "UNet2DConditionModel";

/// A UNet with cross attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Channels of the sample that goes in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// From full resolution down; each has half the sides of the one before.
    pub levels: Vec<Level>,
    /// The middle, which has the channels and heads of the last level.
    pub middle: Middle,
    /// Width of `encoder_hidden_states`.
    pub context: usize,
    /// The projections around a transformer are matrices, not 1×1 convolutions. The numbers are the same.
    pub has_linear_projection: bool,
    /// Width of the embedded timestep.
    pub time_width: usize,
    /// The sinusoids of numbers have the cosines first.
    pub flip_sin_to_cos: bool,
    /// Taken from the number of frequencies before they are spread.
    pub freq_shift: f32,
    /// Conditioning by pooled text and sizes (`text_time`).
    pub added: Option<Added>,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Epsilon of the resnets' group norms.
    pub norm_eps: f32,
    /// 16-bit floats are too short for its attention.
    pub upcast_attention: bool,
    /// Side of the first convolution's kernel; odd.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's kernel; odd.
    pub conv_out_kernel: usize,
}

/// The resnets and transformers of one resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Channels of its resnets' outputs.
    pub channels: usize,
    /// Attention heads; they divide the channels where there is attention.
    pub heads: usize,
    /// Resnets on the way down; there is one more on the way up.
    pub layers: usize,
    /// Transformer blocks behind each resnet on the way down; empty without attention.
    pub down: Vec<usize>,
    /// The same on the way up, in the order in which they run.
    pub up: Vec<usize>,
}

/// The middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// Resnet, attention of so many transformer blocks, resnet.
    Attention {
        /// Transformer blocks.
        depth: usize,
    },
    /// One resnet.
    Resnet,
    /// Nothing.
    Absent,
}

/// Conditioning by pooled text and numbers, each of which becomes a sinusoid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Width of pooled text and sinusoids together.
    pub inputs: usize,
    /// Width of one number's sinusoid.
    pub each: usize,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the field that is wrong or asks for what is not supported.
    pub fn from_json(json: &Value) -> Result<Self, EngineError> {
        json::read(json)
    }

    /// Infers the config from canonical names and shapes; `base` is the family that the model belongs to.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the tensor that is missing, does not fit or belongs to what is not supported.
    pub fn infer(facts: &TensorFacts, base: Option<&str>) -> Result<Self, EngineError> {
        infer::read(facts, base)
    }

    /// From `config.json` where there is one, else from the tensors.
    ///
    /// # Errors
    /// As [`Config::from_json`] and [`Config::infer`].
    pub fn read(json: Option<&Value>, facts: &TensorFacts, base: Option<&str>) -> Result<Self, EngineError> {
        json.map_or_else(|| Self::infer(facts, base), Self::from_json)
    }

    /// The first level's channels: also the width of the timestep's sinusoid.
    #[must_use]
    pub fn first_channels(&self) -> usize {
        self.levels.first().map_or(0, |level| level.channels)
    }
}
