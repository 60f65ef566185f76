//! Pipelines on the wire: what is declared, where it is applied, what differs, what was done.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::ErrorBody,
    ids::{JobId, PipelineId},
    job::{
        JobState, KeepAlive, Target,
        engine::{Assembly, LoraUse, VaeSettings},
    },
    pipeline::Standing,
};

/// `PUT /v1/pipelines/{name}`: what a pipeline is, with models by name or id. Answers show it with names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "model": "sdxl-base", "vae": "sdxl-vae-fp16-fix", "loras": [{ "lora": "pixel-art-xl", "weight": 0.8 }],
    "target": "device:gpu-1/cuda:0", "apply": true,
}))]
pub struct PipelineDeclaration {
    /// For people, at most 2000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model.
    pub model: String,
    /// Another model whose VAE takes the place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// How the VAE runs.
    #[serde(default)]
    pub vae_settings: VaeSettings,
    /// Other models whose text encoder takes the place of the one of this kind (`text_encoder`, `text_encoder_2`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub text_encoders: BTreeMap<String, String>,
    /// The stack of LoRAs; their order makes no difference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<String>>,
    /// Where it is applied while it is applied nowhere: `any`, `all`, `host:<name>`, `device:<host>/<device>`.
    #[serde(default)]
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Labels that the place must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How long its parts stay in RAM and on the device after their last use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Its parts are not evicted until somebody unprotects them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
    /// In requests: apply it at once, where it is applied already or else at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<bool>,
}

impl PipelineDeclaration {
    /// The models and how they are put together.
    pub fn assembly(&self) -> Assembly<String> {
        Assembly {
            model: self.model.clone(),
            vae: self.vae.clone(),
            vae_settings: self.vae_settings.clone(),
            text_encoders: self.text_encoders.clone(),
            loras: self.loras.clone(),
        }
    }
}

/// `PATCH /v1/pipelines/{name}/loras`: first `remove`, then `set`, then `add`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({ "set": { "pixel-art-xl": 0.5 }, "add": [{ "lora": "add-detail-xl", "weight": -1.0 }] }))]
pub struct LorasPatch {
    /// LoRAs of the stack, by name or id, each with its new weight, or with what changes of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, LoraChange>,
    /// LoRAs that come to the stack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<LoraUse<String>>,
    /// LoRAs that leave the stack, by name or id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Apply it at once. Absent: where it is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply: Option<bool>,
}

/// What changes of a LoRA in a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "a change is a weight, or an object with `weight`, `text_encoder_weight` or `blocks`")]
pub enum LoraChange {
    /// Its weight.
    Weight(f64),
    /// Several things.
    Fields(LoraFields),
}

/// Fields of a LoRA in a stack; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraFields {
    /// Its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Its weight in the text encoders; `null` for the same as elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    #[schema(value_type = Option<f64>)]
    pub text_encoder_weight: Option<Option<f64>>,
    /// All of its blocks' factors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<BTreeMap<String, f64>>,
}

/// What is there was said, `null` as well.
fn said<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// `POST /v1/pipelines/{name}/apply`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineApplyRequest {
    /// `any`: where it is applied, else at the pipeline's own target. `all`, `host:<name>`, `device:<host>/<device>`.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Only say what would be loaded, evicted and computed.
    pub dry_run: bool,
    /// Check the digests of the base's parts on the device before it is done.
    pub verify: bool,
    /// Higher goes first.
    pub priority: i32,
}

/// `POST /v1/pipelines/{name}/restore`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineRestoreRequest {
    /// `any`: everywhere where it is applied; else `device:<host>/<device>`.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Check the digests of the base's parts on the device before it is done.
    pub verify: bool,
    /// Higher goes first.
    pub priority: i32,
}

/// A pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineView {
    /// Id.
    pub id: PipelineId,
    /// Unique name.
    pub name: String,
    /// Raised by each change of what is declared.
    pub generation: i64,
    /// What is declared.
    pub declared: PipelineDeclaration,
    /// Where it is, was or is to be applied.
    pub devices: Vec<PipelineDeviceView>,
    /// The newest job that applies it to a place that the scheduler chooses, while it is active, and when it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<PipelineJob>,
    /// First declared.
    pub created_at: DateTime<Utc>,
    /// Last declared.
    pub updated_at: DateTime<Utc>,
}

/// A job that applies a pipeline to a place that the scheduler chooses.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineJob {
    /// The job.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// A pipeline on a device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineDeviceView {
    /// `<host>/<name>`.
    pub device: String,
    /// How it stands.
    pub state: Standing,
    /// The declaration that is to be there.
    pub wanted_generation: i64,
    /// The declaration that was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<i64>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<DateTime<Utc>>,
    /// What the job that applied it says of each component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub facts: Option<Value>,
    /// The newest job about it, while it is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job: Option<JobId>,
    /// Failures since the last success.
    pub failures: u32,
    /// When it is tried again; absent when nothing is tried by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
    /// What failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// What is declared beside what is applied.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineDiff {
    /// Name of the pipeline.
    pub name: String,
    /// What is declared now.
    pub generation: i64,
    /// One entry for each device where it was applied.
    pub devices: Vec<PipelineDeviceDiff>,
}

/// What is declared beside what is applied on a device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineDeviceDiff {
    /// `<host>/<name>`.
    pub device: String,
    /// How it stands.
    pub state: Standing,
    /// What was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<i64>,
    /// What an application of what is declared now would change; of a device that lost it, beside what was there.
    pub changes: Vec<PipelineChange>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineChange {
    /// `model`, `vae`, `vae_settings`, `text_encoder`, `lora`, `keep_alive` or `protect`.
    pub what: String,
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// Which one: the kind of a text encoder, the name of a LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As it is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub from: Option<Value>,
    /// As it is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub to: Option<Value>,
}

/// Something that was done with a pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineEvent {
    /// Orders the entries.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `declared`, `applied`, `restored`, `failed`, `lost` or `removed`.
    pub event: String,
    /// The declaration that it is about.
    pub generation: i64,
    /// Who declared or removed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// By which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// What it changed.
    pub changes: Vec<PipelineChange>,
    /// Seconds that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Bytes that were changed on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// Answer to `DELETE /v1/pipelines/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PipelineRemoved {
    /// Its id, by which its history alone is found.
    pub id: PipelineId,
    /// Its name.
    pub name: String,
    /// Jobs that restore it where it was applied.
    pub restoring: Vec<JobId>,
}
