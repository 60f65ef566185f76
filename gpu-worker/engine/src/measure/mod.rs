//! One run of a component at a batch and size, timed: what a benchmark repeats.
//!
//! Inputs follow from their names and are made before the clock starts; what every request pays (config, graph, session,
//! binding, the run itself, its result on the host) is inside.

mod component;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::EngineError,
    forward::Component,
    models::vae::VaeSettings,
    runtime::{Control, Runtime},
    weights::Weights,
};

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Latents to images.
    VaeDecode,
    /// Images to latents.
    VaeEncode,
    /// Prompts of one chunk to states.
    EncodeText,
    /// One prediction for each sample.
    UnetStep,
}

impl Operation {
    /// What a component of this kind can be measured at.
    #[must_use]
    pub fn of_kind(kind: &str) -> &'static [Self] {
        match kind {
            "vae" => &[Self::VaeDecode, Self::VaeEncode],
            "vae_decoder" => &[Self::VaeDecode],
            "vae_encoder" => &[Self::VaeEncode],
            "text_encoder" | "text_encoder_2" => &[Self::EncodeText],
            "unet" => &[Self::UnetStep],
            _ => &[],
        }
    }

    /// The stable name, that of the job which does the same.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VaeDecode => "vae_decode",
            Self::VaeEncode => "vae_encode",
            Self::EncodeText => "encode_text",
            Self::UnetStep => "unet_step",
        }
    }

    /// Whether the size of an image matters to it.
    #[must_use]
    pub fn has_size(self) -> bool {
        self != Self::EncodeText
    }
}

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Images, samples or prompts.
    pub batch: usize,
    /// Pixels of an image from left to right.
    pub width: usize,
    /// Pixels of an image from top to bottom.
    pub height: usize,
}

/// What a run took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Wall time.
    pub seconds: f64,
    /// The most memory beside the weights; none where an earlier run of the same session took as much, or the library does
    /// not count.
    pub peak_bytes: Option<u64>,
    /// The estimate before it.
    pub estimated_bytes: Option<u64>,
}

/// Runs a component once; a VAE as its settings say.
///
/// # Errors
/// As the component's own run; [`EngineError::OutOfMemory`] when the estimate is above `bound_bytes` and nothing can be cut.
pub fn once(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    (weights, settings): (Weights, VaeSettings),
    (operation, amount): (Operation, Amount),
    bound_bytes: Option<u64>,
    control: &Control,
) -> Result<Measured, EngineError> {
    match operation {
        Operation::VaeDecode => {
            component::vae_decode(runtime, component, (weights, settings), amount, bound_bytes, control)
        }
        Operation::VaeEncode => {
            component::vae_encode(runtime, component, (weights, settings), amount, bound_bytes, control)
        }
        Operation::EncodeText => component::encode_text(runtime, component, weights, amount, bound_bytes, control),
        Operation::UnetStep => component::unet_step(runtime, component, weights, amount, bound_bytes, control),
    }
}
