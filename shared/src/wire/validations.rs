//! Validations on the wire: asking for one, and what it found.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{JobId, ModelId, ValidationId},
    job::{Target, ValidateLevel},
};

/// `POST /v1/models/{model}/validate`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateRequest {
    /// How far to go; `weights` when absent.
    pub level: ValidateLevel,
    /// `any` (default), `all` hosts with the files, or `host:<name>`; with level `forward` also `device:<host>/<name>`.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Higher goes first.
    pub priority: i32,
}

/// A validation without its findings.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ValidationSummary {
    /// Id.
    pub id: ValidationId,
    /// The model.
    pub model: ModelId,
    /// The job that made it.
    pub job: JobId,
    /// The host whose files were looked at.
    pub host: String,
    /// How far it went.
    pub level: String,
    /// `ok`, `degraded`, `invalid`, `unsafe`.
    pub verdict: String,
    /// The files on that host are others now: the report says nothing of them.
    pub stale: bool,
    /// Findings that make the model invalid or unsafe.
    pub errors: u64,
    /// Findings that make it degraded.
    pub warnings: u64,
    /// Findings worth knowing.
    pub infos: u64,
    /// Tensors whose numbers were looked at.
    pub tensors: u64,
    /// Bytes that were read, headers not counted.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// When it ended.
    pub created_at: DateTime<Utc>,
}

/// A validation with what it found, worst first.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ValidationReport {
    /// As in lists.
    #[serde(flatten)]
    pub summary: ValidationSummary,
    /// The findings, at most so many as a report keeps.
    pub findings: Vec<FindingView>,
    /// Findings that were left out; the counts include them.
    pub omitted: u64,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FindingView {
    /// `info`, `warning`, `error`.
    pub severity: String,
    /// Stable name of the check.
    pub code: String,
    /// The component it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The tensor it is about, by its name in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// What should be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// One sentence.
    pub message: String,
}
