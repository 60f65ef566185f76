//! The catalogue: models, their locations and components.

mod added;
mod columns;
mod component_list;
mod components;
mod corrupt;
mod forget;
mod free_names;
mod holders;
mod known;
mod lanes;
mod listed;
mod loras;
mod metadata;
mod near;
mod page;
mod read;
mod scan;
mod search;
mod shelves;
mod statement;
mod tensors;
mod text;
mod way;
mod words;
mod write;
mod written;

pub use component_list::{ComponentFilter, SharedComponent, list_components, shared_component};
pub use components::{Registered, merged, register_digest};
pub use corrupt::{
    CORRUPT_HINT, CorruptRow, FileKey, Judged, Reader, any_corrupt_files, corrupt_among, corrupt_files,
    count_corrupt_files, judge_component, judge_file, marked_among, take_marks_off,
};
pub use forget::forget;
pub use known::{KnownModel, known, misread};
pub use lanes::{LANES, lane, lock_root};
pub use listed::{due_texts, make_due_texts};
pub use loras::{LoraRow, lora_facts};
pub use metadata::{MetadataChangeRow, MetadataRow, lock, metadata, metadata_history, set_metadata, set_overrides};
pub use page::{explain, list, list_along, listed};
pub use read::{
    OwnedComponent, component, component_ids_of, components_of, count, files_around, find, hosts_behind, hosts_with,
    locations_of, names, names_of, of_types_on, owners_of,
};
pub use scan::{FoundComponent, FoundModel, Scan, ScanCounts, record_models, record_one, record_scan, root_missing};
pub use search::{ListedModel, ModelFilter, ModelSort};
pub use tensors::{ListedTensor, TensorFilter, TensorRow, list_tensors, set_tensors, without_tensors};
pub use text::{MOST_WORDS, RANKED_MOST, Reading, understand, words_of};
pub use way::Way;
pub use written::{Batch, Written};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, types::Json};

use super::DbError;
use crate::ids::{ComponentId, ModelId};

/// A file of a model as a scan saw it: the identity that a load compares before and after reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileIdentity {
    /// Path below the model's own path; empty for a single file.
    pub rel_path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system.
    pub dev: u64,
}

/// What an operator says a model is, as far as it decides which files are read and how their tensors are cut into components and named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAs {
    /// Type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Variant of a folder's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A model row.
#[derive(Debug, Clone, FromRow)]
pub struct ModelRow {
    /// Id.
    pub id: ModelId,
    /// Unique name.
    pub name: String,
    /// Type.
    #[sqlx(rename = "type")]
    pub model_type: String,
    /// Base.
    pub base: String,
    /// Format.
    pub format: String,
    /// Dtype of the weights; no variant of a folder's.
    pub variant: Option<String>,
    /// Prediction type.
    pub prediction: Option<String>,
    /// Root name.
    pub root: String,
    /// Path below the root.
    pub rel_path: String,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// BLAKE3 of the content, once computed: of the file, or of all files by name.
    pub content_digest: Option<String>,
    /// SHA-256 of the file in hex, once computed.
    pub sha256: Option<String>,
    /// SHA-256 in hex of what follows a safetensors header, once computed.
    pub payload_sha256: Option<String>,
    /// What the operator says against the detection: `type`, `base`, `prediction`, `variant`, `config` by component.
    pub overrides: Value,
    /// The correction that its components come from.
    pub read_as: Json<ReadAs>,
    /// Version of the canonical form that its components and their digests have.
    pub canonical_form: i32,
    /// `available`, `missing`, `unreadable`.
    pub state: String,
    /// Why it is unknown or not available.
    pub reason: Option<String>,
    /// Detection evidence.
    pub evidence: Value,
    /// Metadata found in the file.
    pub metadata: Value,
    /// Row version, for ETags.
    pub version: i64,
    /// First seen.
    pub created_at: DateTime<Utc>,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
}

/// A component as a part of one model. Models with equal components share the id.
#[derive(Debug, Clone, FromRow)]
pub struct ComponentRow {
    /// Id.
    pub id: ComponentId,
    /// The model.
    pub model_id: ModelId,
    /// The part that it plays in this model.
    pub kind: String,
    /// Bytes of its tensors.
    pub bytes: i64,
    /// Parameters.
    pub param_count: i64,
    /// Tensors.
    pub tensor_count: i32,
    /// Dtype, or `mixed`.
    pub dtype: String,
    /// Digest of its tensors, once known.
    pub digest: Option<String>,
}

/// Where a model is on disk.
#[derive(Debug, Clone, FromRow)]
pub struct LocationRow {
    /// The model.
    pub model_id: ModelId,
    /// Host.
    pub host: String,
    /// Root name.
    pub root: String,
    /// Path below the root.
    pub rel_path: String,
    /// Folder of the root on that host.
    pub root_path: String,
    /// `[FileIdentity]`.
    pub files: Value,
    /// The chosen variant that the files were read with.
    pub read_variant: Option<String>,
    /// When a scan last saw it.
    pub seen_at: DateTime<Utc>,
}

impl LocationRow {
    /// The files, decoded.
    ///
    /// # Errors
    /// [`DbError::BadRow`].
    pub fn identities(&self) -> Result<Vec<FileIdentity>, DbError> {
        serde_json::from_value(self.files.clone())
            .map_err(|error| DbError::BadRow(format!("files of model {}: {error}", self.model_id)))
    }
}
