//! Models and components on the wire.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Detected, Overrides, UserMetadata};
use crate::ids::{ComponentId, JobId, ModelId};

/// The metadata of a model that a job made says under this key what it was made from, as JSON.
pub const MADE_FROM_KEY: &str = "modelyard.made_from";

/// One page of a list of models.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelPage {
    /// The rows.
    pub items: Vec<ModelSummary>,
    /// Opaque; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Where a text was searched: models that no text finds yet, or only by what they were before, because they were just listed. Absent when
    /// there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexing: Option<u64>,
}

/// Answer to `DELETE /v1/models/{model}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelForgotten {
    /// The id that it had.
    pub id: ModelId,
    /// The name that is free now.
    pub name: String,
}

/// A model in a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelSummary {
    /// Id.
    pub id: ModelId,
    /// Unique name.
    pub name: String,
    /// Title of people, else of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `checkpoint`, `vae`, `lora`, …, `unknown`: as the operator says, else as detected.
    #[serde(rename = "type")]
    pub model_type: String,
    /// `sd15`, `sdxl`, …, `unknown`: as the operator says, else as detected.
    pub base: String,
    /// `safetensors`, `diffusers`, ….
    pub format: String,
    /// Dtype of the weights that are read; the name of a folder's variant is in `variants`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// `available`, `missing`, `unreadable`.
    pub state: String,
    /// Why it is unknown or not available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tags of people and files, in lower case.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Verdict of the last validation of any host: `ok`, `degraded`, `invalid`, `unsafe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The files that it looked at are others by now: the verdict says nothing of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verdict_stale: bool,
    /// How well the text of a search fits; absent without a text, or where it is too common to rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<f64>,
    /// Where parts of it are resident.
    pub residency: Residency,
    /// First seen.
    pub created_at: DateTime<Utc>,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
}

/// Which hosts and devices hold components of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Residency {
    /// Hosts that hold components in RAM.
    pub ram: Vec<String>,
    /// Devices that hold components in VRAM.
    pub vram: Vec<String>,
}

/// A model with everything known of it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelDetail {
    /// As in lists.
    #[serde(flatten)]
    pub summary: ModelSummary,
    /// Prediction type where knowable: as the operator says, else as detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// What the files say it is.
    pub detected: Detected,
    /// What the operator says against it.
    pub overrides: Overrides,
    /// Whether a scan has yet to read the model with the type, base and variant that the operator says, on any living host that has it.
    #[serde(default)]
    pub correction_pending: bool,
    /// What people say of it.
    pub user: UserMetadata,
    /// Content digest, once computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Hashes, once computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
    /// Root name.
    pub root: String,
    /// Path below the root.
    pub rel_path: String,
    /// What the detection matched.
    #[schema(value_type = Object)]
    pub evidence: serde_json::Value,
    /// Metadata found in the file.
    #[schema(value_type = Object)]
    pub metadata: serde_json::Value,
    /// What its files say that it was made from by a `convert` job: models with digests and weights, layout and type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub made_from: Option<serde_json::Value>,
    /// Variants of a folder's weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantView>,
    /// Components.
    pub components: Vec<ComponentView>,
    /// Where it is on disk.
    pub locations: Vec<LocationView>,
    /// Row version; also the ETag.
    pub version: i64,
}

/// Hashes of a model in lower-case hex. A model of several files has only the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hashes {
    /// BLAKE3 of the file, or of the names and BLAKE3s of all files.
    pub blake3: String,
    /// SHA-256 of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The first ten digits of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autov2: Option<String>,
    /// The short hash of old tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autov1: Option<String>,
    /// SHA-256 of what follows a safetensors header (AutoV3, `modelspec.hash_sha256`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_sha256: Option<String>,
}

/// A variant of a folder's weights: what diffusers reads with `variant=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VariantView {
    /// `fp16`, `non_ema`, …; `default` for the weights without a variant in their names.
    pub name: String,
    /// Whether it has whole weights of every component that has any.
    pub complete: bool,
    /// Its weights by component.
    pub parts: Vec<VariantPart>,
}

/// One component's weights of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VariantPart {
    /// The component.
    pub component: String,
    /// Paths below the model's own; of shards the index first.
    pub files: Vec<String>,
    /// `safetensors`, `torch_zip` or `pickle`.
    pub format: String,
    /// Dtypes of the weights; none where no header could be read.
    pub dtypes: Vec<String>,
    /// Bytes on disk of the files that are there.
    pub size_bytes: u64,
    /// Whether every file is there and its header can be read.
    pub complete: bool,
    /// What is wrong with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Why they are the ones that are read; absent when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<WhyRead>,
}

/// Why weights of a variant are the ones that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyRead {
    /// They come first in the usual order: safetensors, without a variant, `fp16`, others.
    UsualOrder,
    /// The operator chose their variant.
    Chosen,
    /// The operator chose a variant that the component has no files of.
    WithoutChosen,
}

/// A component of a model.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ComponentView {
    /// Id.
    pub id: ComponentId,
    /// `unet`, `vae`, `text_encoder`, ….
    pub kind: String,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Parameters.
    pub param_count: u64,
    /// Tensors.
    pub tensor_count: u32,
    /// Dtype, or `mixed`.
    pub dtype: String,
    /// Digest of its tensors, once they were read: by a load or by hashing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A tensor of a model's component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TensorView {
    /// Kind of the component.
    pub component: String,
    /// Name in the file.
    pub name: String,
    /// Names in diffusers or transformers of what is made of it: several of a fused one, none of an unknown one.
    pub canonical: Vec<String>,
    /// Element type.
    pub dtype: String,
    /// Shape in the file.
    pub shape: Vec<u64>,
    /// Path of its file below the model's own path; empty for a single file.
    pub file: String,
    /// First byte in the file.
    pub begin: u64,
    /// One past the last byte in the file.
    pub end: u64,
}

/// Where a model is on disk.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LocationView {
    /// Host.
    pub host: String,
    /// Root name.
    pub root: String,
    /// Full path on the host.
    pub path: String,
    /// When a scan last saw it.
    pub seen_at: DateTime<Utc>,
    /// Its files there whose bytes were read and are not the registered ones. While there are any, the model is not read from that host's
    /// disk; what is in memory there is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrupt: Vec<CorruptFile>,
}

/// A file whose bytes, when a host read them, were not those that are registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CorruptFile {
    /// Path below the model's own; empty for a single file.
    pub file: String,
    /// Kind of the component whose digest differs; absent where the BLAKE3 of the whole file does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The digest that is registered.
    pub expected: String,
    /// The digest that was read.
    pub actual: String,
    /// The job that read it.
    pub job: JobId,
    /// When that was.
    pub found_at: DateTime<Utc>,
}
