//! Uploads and artifacts on the wire.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, UploadId};

/// Bytes that a client sent for jobs to work on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UploadView {
    /// Id, for `{"upload": <id>}` in a job's arguments.
    pub id: UploadId,
    /// As the client calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As the client said; nothing looks into the bytes before a job does.
    pub media_type: String,
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
    /// When all bytes were there.
    pub created_at: DateTime<Utc>,
    /// When it goes; later if an active job still works on it.
    pub expires_at: DateTime<Utc>,
    /// Active jobs that work on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<JobId>,
}

/// A file that a job left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArtifactView {
    /// Name, the last part of its path.
    pub name: String,
    /// Media type.
    pub media_type: String,
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3 of the bytes, in hex; also its entity tag.
    pub blake3: String,
    /// Shown while the job runs, and replaced by the next one and by the result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
    /// When it was left.
    pub created_at: DateTime<Utc>,
}
