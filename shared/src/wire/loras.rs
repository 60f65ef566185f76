//! LoRAs in lists, what one would do to a base, and what came of a blend.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ModelDetail, ModelSummary};

/// What a LoRA's file says of it. What is absent was not observed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct LoraFacts {
    /// `lora`, `locon`, `loha`, `lokr`, `dora`, `full`, …: of several the one that asks the most of whoever applies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavour: Option<String>,
    /// All of them.
    pub flavours: Vec<String>,
    /// Modules that it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<u64>,
    /// Least rank of a module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_min: Option<u64>,
    /// Highest rank of a module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_max: Option<u64>,
    /// Rank as the trainer wrote it down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_dim: Option<f64>,
    /// Alpha as the trainer wrote it down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_alpha: Option<f64>,
}

/// A LoRA in a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraView {
    /// As in lists of models.
    #[serde(flatten)]
    pub summary: ModelSummary,
    /// What its file says of it.
    pub facts: LoraFacts,
    /// Words that trigger it.
    pub trigger_words: Vec<String>,
}

/// A LoRA with everything known of it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraDetail {
    /// As a model.
    #[serde(flatten)]
    pub model: ModelDetail,
    /// What its file says of it.
    pub facts: LoraFacts,
    /// Words that trigger it.
    pub trigger_words: Vec<String>,
}

/// Result of a `lora_check` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraCheckResult {
    /// The LoRA's name.
    pub lora: String,
    /// The base's name.
    pub base: String,
    /// The host that read them.
    pub host: String,
    /// It may be applied to this base.
    pub fits: bool,
    /// Why not.
    pub refusal: Option<String>,
    /// Digest of the LoRA's tensors.
    pub digest: String,
    /// Bytes of the LoRA's tensors.
    pub lora_bytes: u64,
    /// `ram` when it was there already, else `disk`.
    pub from: String,
    /// Modules that fit.
    pub matched: Vec<LoraFit>,
    /// Modules that the base does not have, by their names in the LoRA's file.
    pub unmatched: Vec<String>,
    /// Modules whose change has other dimensions than the base's weight.
    pub mismatched: Vec<LoraMismatch>,
    /// Modules that fit and change nothing all the same, as their own scale is 0 (alpha 0).
    #[serde(default)]
    pub without_effect: usize,
    /// Modules of the touched components that it does not change, by component and canonical path (`unet.conv_in`).
    pub untouched: Vec<String>,
    /// It is for another family than the model, as files or people say, and refused for it also where its dimensions fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub families: Option<OtherFamily>,
    /// Components that it touches.
    pub components: Vec<String>,
    /// Ranks with how many modules have them.
    pub ranks: BTreeMap<usize, usize>,
    /// Tensors of the file that belong to no module.
    pub others: Vec<String>,
    /// Settings beside the factors that could not be read, each with why no sum needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Bytes that the changed tensors take beside the base.
    pub estimated_bytes: u64,
    /// Seconds that applying it takes on that host, told from a piece of the work.
    pub estimated_seconds: f64,
}

/// A LoRA that changes nothing as it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraWithoutEffect {
    /// The LoRA's name.
    pub lora: String,
    /// Why.
    pub why: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What of a LoRA does not belong to the model that it was applied to all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraMisfit {
    /// The LoRA's name.
    pub lora: String,
    /// Its modules that the model does not have.
    pub unmatched: usize,
    /// Some of them, by their names in the LoRA's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// Tensors of its file that belong to no module, such as embeddings that came along: they are not used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
    /// Some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_examples: Vec<String>,
}

/// Two families where one is expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OtherFamily {
    /// That of the LoRA.
    pub lora: String,
    /// That of the model.
    pub model: String,
}

/// A module of a LoRA that fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraFit {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The component of the base.
    pub component: String,
    /// The module's canonical path; its weight is `<path>.weight`.
    pub path: String,
    /// Rank; 0 where the change has none.
    pub rank: usize,
    /// `lora`, `locon`, `loha`, `lokr`, `dora`, `full`, `bias`.
    pub flavour: String,
    /// Bytes of the base's tensors that it changes.
    pub bytes: u64,
}

/// A module of a LoRA that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraMismatch {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The base's tensor.
    pub tensor: String,
    /// Rows and columns of the change.
    pub found: [usize; 2],
    /// Dimensions of the base's tensor.
    pub expected: Vec<usize>,
}

/// Result of a `blend_loras` job. The new file is in the catalogue after the scan that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlendLorasResult {
    /// The host that has it.
    pub host: String,
    /// Name of the root.
    pub root: String,
    /// Path below it.
    pub path: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of what follows its header; absent when an interrupted attempt of the same job had written it.
    pub payload_sha256: Option<String>,
    /// Modules.
    pub modules: usize,
    /// Ranks with how many modules have them; 0 is for those written whole.
    pub ranks: BTreeMap<usize, usize>,
    /// How far it is off the exact sum, of the length of that (Frobenius): what was cut off and what rounding took.
    pub error: f64,
    /// The modules that are furthest off, the worst first.
    pub worst: Vec<BlendedModule>,
    /// What of each LoRA is in it, in the order of the stack.
    #[serde(default)]
    pub loras: Vec<BlendedLora>,
    /// LoRAs of which nothing is in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras_without_effect: Vec<LoraWithoutEffect>,
    /// What of the LoRAs does not belong to the base that was named, or is no module at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lora_misfits: Vec<LoraMisfit>,
    /// Seconds from begin to end.
    pub seconds: f64,
}

/// How a module of a blend came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlendedModule {
    /// Its name in the new file.
    pub stem: String,
    /// Its rank; 0 when it is written whole.
    pub rank: usize,
    /// How far it is off the exact sum, of the length of that.
    pub error: f64,
}

/// What of a LoRA is in a blend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlendedLora {
    /// The LoRA's name.
    pub lora: String,
    /// Modules that are in it.
    pub blended: usize,
    /// Modules that fit and add nothing: their weights are 0, or their own scale is.
    pub without_effect: usize,
    /// Modules that the base does not have.
    pub unmatched: usize,
}
