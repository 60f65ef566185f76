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
    /// Tensors whose statistics are kept: of the newest report of level `weights` of a host.
    #[serde(default)]
    pub statistics: u64,
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
    /// The figures of it, where it has some: of `forward_ran` and `forward_not_finite` the outputs of the run, each with `name`, `shape`
    /// and `statistics` (`elements`, `nan`, `infinite`, `min`, `max`, `mean`, `std` of the finite ones).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub facts: Option<serde_json::Value>,
}

/// What the numbers of one tensor are like. Moments and range are those of its finite elements, absent where there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TensorStatisticsView {
    /// The component; absent for tensors that belong to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Name in the file.
    pub tensor: String,
    /// Element type in the file.
    pub dtype: String,
    /// Number of elements.
    pub elements: u64,
    /// Elements that are no numbers.
    pub nan: u64,
    /// Elements that are infinite.
    pub infinite: u64,
    /// Elements that are zero.
    pub zero: u64,
    /// Elements below the smallest normal number of the type.
    pub subnormal: u64,
    /// Mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Smallest element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Largest magnitude.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absmax: Option<f64>,
    /// Largest magnitude as a share of the largest finite number of 16-bit floats, 65504: above 1 the tensor overflows there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_fp16_range: Option<f64>,
}
