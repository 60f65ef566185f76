//! A small real run of one component: does it run at all, are its results numbers, and what do they look like?
//!
//! Inputs follow from their names ([`values`]), so equal weights give equal statistics everywhere.

pub(crate) mod text_encoder;
pub(crate) mod unet;
mod vae;
pub mod values;

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::{
    error::EngineError,
    graph::UserGraph,
    runtime::{Control, Runtime},
    statistics::Statistics,
    tensor::{Tensor, elements},
    weights::Weights,
};

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Component<'c> {
    /// Its kind as the catalogue names it: `unet`, `vae`, `text_encoder`, …
    pub kind: &'c str,
    /// The family of its model, where it is known.
    pub base: Option<&'c str>,
    /// Its `config.json`; without one the config is inferred from the tensors.
    pub config: Option<&'c Value>,
    /// Its own graph, where it brings one.
    pub graph: Option<&'c UserGraph>,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Forward {
    /// It ran.
    Ran(ForwardReport),
    /// Components of this kind, or with this config, cannot be run.
    Unsupported {
        /// Why.
        reason: String,
    },
}

/// What went in and what came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ForwardReport {
    /// The architecture that ran.
    pub architecture: &'static str,
    /// Names and shapes of what went in.
    pub inputs: Vec<Described>,
    /// What came out.
    pub outputs: Vec<Output>,
    /// True if all that came out are numbers.
    pub is_finite: bool,
}

/// An input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// An output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values in numbers.
    pub statistics: Statistics,
}

/// Runs a component once, as small as it can be.
///
/// # Errors
/// Weights that are missing or have another shape than the config says; [`EngineError::Cancelled`]; what ONNX Runtime
/// answers. Values that are no numbers are no error: the report says so.
pub fn check(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    control: &Control,
) -> Result<Forward, EngineError> {
    let report = match component.kind {
        "unet" => unet::check(runtime, component, weights, control),
        "vae" | "vae_decoder" | "vae_encoder" => vae::check(runtime, component, weights, control),
        "text_encoder" | "text_encoder_2" if !is_t5(component, &weights) => {
            text_encoder::check(runtime, component, weights, control)
        }
        kind => return Ok(Forward::Unsupported { reason: format!("a component of kind `{kind}` {}", why_not(kind)) }),
    };
    match report {
        Ok(report) => Ok(Forward::Ran(report)),
        Err(error @ EngineError::Config { .. }) => Ok(Forward::Unsupported { reason: error.to_string() }),
        Err(error) => Err(error),
    }
}

fn why_not(kind: &str) -> &'static str {
    match kind {
        "text_encoder" | "text_encoder_2" | "text_encoder_3" => "in T5's architecture has no engine yet",
        "transformer" => "(SD3, FLUX) has no engine yet",
        "lora" | "controlnet" | "t2i_adapter" | "ip_adapter" | "motion_adapter" => "runs only as part of a model",
        "tokenizer" | "scheduler" | "embedding" => "has nothing to run",
        _ => "has no engine",
    }
}

/// T5's embedding has a name of its own.
fn is_t5(component: &Component<'_>, weights: &Weights) -> bool {
    let told = component.config.and_then(|config| config.get("model_type")).and_then(Value::as_str);
    told.is_some_and(|model| model.starts_with("t5")) || weights.get("shared.weight").is_some()
}

/// An input of variance 1 that follows from its name.
pub(crate) fn made(name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
    Tensor::f32(shape, values::spread(name, elements(shape).unwrap_or_default()))
}

fn report(architecture: &'static str, inputs: &[(&str, &Tensor)], outputs: &[(&str, &Tensor)]) -> ForwardReport {
    let described =
        |(name, tensor): &(&str, &Tensor)| Described { name: (*name).to_owned(), shape: tensor.shape.clone() };
    let output = |(name, tensor): &(&str, &Tensor)| Output {
        name: (*name).to_owned(),
        shape: tensor.shape.clone(),
        statistics: Statistics::of(tensor.as_f32().unwrap_or_default()),
    };
    let outputs: Vec<Output> = outputs.iter().map(output).collect();
    let is_finite = outputs.iter().all(|output| output.statistics.is_finite());
    ForwardReport { architecture, inputs: inputs.iter().map(described).collect(), outputs, is_finite }
}
