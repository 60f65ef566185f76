//! Converting models on the wire: what is asked for, and what came of it.

use serde::{Deserialize, Serialize};

use super::{LoraMisfit, LoraWithoutEffect};
use crate::{
    ids::ModelId,
    job::{ConvertDtype, ConvertLayout, ConvertOutput, Target, engine::LoraUse},
};

/// `POST /v1/models/{model}/convert`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvertRequest {
    /// `same` (default): under the names that it has; `single_file`: one file under original names; `diffusers`: a folder.
    #[serde(default)]
    pub layout: ConvertLayout,
    /// `keep` (default), `fp32`, `fp16` or `bf16`.
    #[serde(default)]
    pub dtype: ConvertDtype,
    /// The type of the VAE's weights. Absent: as `dtype`, but where that is `fp16` a VAE keeps its own that overflows when it runs in 16
    /// bits, as SDXL's does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_dtype: Option<ConvertDtype>,
    /// Leave out what is no weight of the model: averages, optimizers, noise schedules, constants.
    #[serde(default = "yes")]
    pub prune: bool,
    /// The averaged weights (EMA) of the UNet in place of its last ones.
    #[serde(default)]
    pub use_ema: bool,
    /// Take values that are not numbers, which are refused otherwise.
    #[serde(default)]
    pub allow_nan: bool,
    /// Id or name of another model whose VAE takes the place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// LoRAs by id or name that are baked in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<String>>,
    /// Where it goes.
    pub output: ConvertOutput,
    /// Replace what an earlier job of this kind wrote there. Nothing else is ever replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// Title of the new model; that of the model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `any` (default) host with the files, or `host:<name>`.
    #[serde(default)]
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
}

fn yes() -> bool {
    true
}

/// Result of a `convert` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConvertResult {
    /// Name of the model that was converted.
    pub from: String,
    /// The new model; absent until the catalogue has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The host that has it.
    pub host: String,
    /// Name of the root.
    pub root: String,
    /// Path below it.
    pub path: String,
    /// The layout that was chosen.
    pub layout: ConvertLayout,
    /// Bytes of its files.
    pub bytes: u64,
    /// Of these, bytes that an interrupted attempt had written.
    pub resumed_bytes: u64,
    /// Its tensors.
    pub tensors: usize,
    /// SHA-256 of what follows the header of each file of tensors, by path below the folder.
    pub payload_sha256: std::collections::BTreeMap<String, String>,
    /// Components that keep their type because of values that do not fit the one that was asked for, or that do not when it runs.
    pub kept: Vec<KeptComponent>,
    /// What of the files was left out.
    pub dropped: Vec<DroppedTensors>,
    /// Tensors whose parts have several types, which keep all their values in a type that holds them exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widened: Vec<WidenedTensors>,
    /// Folders of tokenizers that could not be made: the encoder's vocabulary is not CLIP's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Tensors that LoRAs changed.
    pub baked: usize,
    /// LoRAs that changed nothing: the model does not say that it was made from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras_without_effect: Vec<LoraWithoutEffect>,
    /// What of the baked LoRAs does not belong to the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lora_misfits: Vec<LoraMisfit>,
    /// Seconds from begin to end.
    pub seconds: f64,
}

/// A component that keeps its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeptComponent {
    /// Kind of the component.
    pub component: String,
    /// Values that would have become infinite.
    pub values: u64,
    /// Tensors that hold them.
    pub tensors: u64,
    /// The largest absolute value.
    pub largest: f64,
    /// The first of these tensors.
    pub named: Vec<OverflowingTensor>,
    /// Its weights fit, and what it computes with them in that type does not, as is known of its family. `vae_dtype` has it all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runs_over: bool,
}

/// A tensor with values that do not fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OverflowingTensor {
    /// Its name in the new file.
    pub tensor: String,
    /// How many of its values do not fit.
    pub values: u64,
    /// Its largest absolute value.
    pub largest: f64,
}

/// Tensors that are made of parts of several types, in the narrowest type that holds them exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WidenedTensors {
    /// The types of the parts, e.g. `F16` and `BF16`.
    pub from: Vec<String>,
    /// The type of the tensors.
    pub to: String,
    /// How many.
    pub tensors: usize,
    /// Some of their names.
    pub examples: Vec<String>,
}

/// Tensors of one sort that were left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DroppedTensors {
    /// `average`, `schedule`, `constants`, `training`, `replaced`, `unused_layers`, `other`.
    pub what: String,
    /// How many.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Some of their names.
    pub examples: Vec<String>,
}
