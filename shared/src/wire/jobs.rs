//! Jobs on the wire.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    error::ErrorBody,
    ids::{JobId, ModelId},
    job::{JobState, KeepAlive, Target},
};

/// `POST /v1/jobs`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Kind: `scan`, `load`, `unload`, `cache_add`, `cache_remove`, `cache_keep`, `hash`, `validate`, `metadata_write`, `optimize`,
    /// `vae_decode`, `vae_encode`, `encode_text`, `unet_step`, `tokenize`, `generate`, `lora_check`, `blend_loras`.
    pub kind: String,
    /// Arguments of the kind. A model may be given by id or name.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub args: serde_json::Value,
    /// `any` (default), `all`, `host:<name>`, `device:<host>/<device>`.
    #[serde(default)]
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// Labels that the host or device must have.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Attempts allowed, 1..=10; 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i32>,
}

/// `POST /v1/models/{model}/load` and the device form.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadRequest {
    /// Where; `any` when absent.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Component kinds; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Higher goes first.
    pub priority: i32,
    /// Labels that the device must have.
    pub labels: Vec<String>,
    /// How long it stays in RAM and on the device after its last use: `10m`, seconds, negative until it is evicted; 0: in RAM for
    /// as long as it is in use, on the device until it is evicted; as configured on the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
    /// Do not evict it from RAM or the device until it is unprotected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
}

/// `POST /v1/vram/load|unload` and `POST /v1/devices/{device}/vram/load|unload`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MultiLoadRequest {
    /// Model id or name.
    pub model: String,
    /// Component kinds; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// For unload: free the RAM copies as well.
    #[serde(default)]
    pub from_ram: bool,
    /// For unload: also what other models that are loaded there need, and what is protected; never what is in use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// For unload: wait for the jobs that use it, instead of refusing while one does. Programs that are attached are not waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_jobs: bool,
    /// How long it stays in RAM and on the device after its last use: `10m`, seconds, negative until it is evicted; 0: in RAM for
    /// as long as it is in use, on the device until it is evicted; as configured on the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
    /// Do not evict it from RAM or the device until it is unprotected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
}

/// `POST /v1/models/{model}/unload`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnloadRequest {
    /// Where; every device that holds it when absent or `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub target: Option<Target>,
    /// Component kinds; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Free the RAM copies as well.
    pub from_ram: bool,
    /// Also what other models that are loaded there need, and what is protected; never what is in use. Components that are
    /// named go even if others need them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Wait for the jobs that use it, instead of refusing while one does. Programs that are attached are not waited for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_jobs: bool,
    /// Higher goes first.
    pub priority: i32,
}

/// `POST /v1/cache`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheRequest {
    /// Model id or name.
    pub model: String,
    /// Component kinds; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// `any` (default), `all` or `host:<name>`.
    #[serde(default)]
    #[schema(value_type = String)]
    pub target: Target,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// How long it stays in RAM after its last use: `10m`, seconds, 0 for as long as it is in use, negative until it is evicted;
    /// as configured on the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
    /// Do not evict it from RAM until it is unprotected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobView {
    /// Id.
    pub id: JobId,
    /// Kind.
    pub kind: String,
    /// State.
    pub state: JobState,
    /// Arguments.
    #[schema(value_type = Object)]
    pub args: serde_json::Value,
    /// The model it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
    /// Where it was asked to run.
    pub target: String,
    /// Where it is or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Where it is or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Priority.
    pub priority: i32,
    /// Attempts so far.
    pub attempt: i32,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// A cancel was asked for.
    pub cancel_requested: bool,
    /// The job whose child it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The job that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
    /// Why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub reason: Option<serde_json::Value>,
    /// Progress of the running attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Accepted.
    pub created_at: DateTime<Utc>,
    /// First started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// Ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// Progress of a running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// `locating`, `making_room`, `reading`, `verifying`, `copying`, `freeing`, `scanning`, ….
    pub phase: String,
    /// Bytes (for a scan: files) done.
    pub bytes_done: u64,
    /// Bytes (files) in all; 0 while unknown.
    pub bytes_total: u64,
    /// Bytes (files) per second at present; absent until some were done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<f64>,
    /// Seconds left at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// What in particular, e.g. the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A job with its attempts and children.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobDetail {
    /// As in lists.
    #[serde(flatten)]
    pub job: JobView,
    /// Why it was placed where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub placement: Option<serde_json::Value>,
    /// Attempts, first to last.
    pub attempts: Vec<AttemptView>,
    /// Children of a job for several places.
    pub children: Vec<JobView>,
}

/// One attempt.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AttemptView {
    /// Number from 1.
    pub attempt: i32,
    /// Lease epoch.
    pub fence: i64,
    /// Host.
    pub host: String,
    /// Device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The worker process.
    pub incarnation: String,
    /// Claimed.
    pub started_at: DateTime<Utc>,
    /// Ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// With which error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// An event of a job; in streams `seq` is the SSE id.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventView {
    /// Grows with time.
    pub seq: i64,
    /// The job.
    pub job: JobId,
    /// When.
    pub at: DateTime<Utc>,
    /// `enqueued`, `placed`, `started`, `succeeded`, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// Details.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}
