//! The side-car's schema: what is known of a model, in one JSON object. Absent fields are not known.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::probe::read_json;

/// The value of `schema`: this one's name and version. A reader of another version takes the fields that it knows.
pub const SCHEMA: &str = "modelyard/model/1";
/// What every version's `schema` begins with.
pub(crate) const SCHEMA_NAME: &str = "modelyard/model/";
/// Largest side-car whose writer is looked for.
const LIMIT_BYTES: u64 = 4 << 20;

/// A side-car.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which job wrote it, and from what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// The model's unique name when it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Title, of people before that of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Description, of people before that of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Tags of people and files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Words that trigger it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trigger_words: Vec<String>,
    /// The same in one text, where web interfaces look for it.
    #[serde(rename = "activation text", skip_serializing_if = "Option::is_none")]
    pub activation_text: Option<String>,
    /// Notes of people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// 0 to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rating: Option<u8>,
    /// Licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Anything else that people say.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
    /// Type, as the operator says or as detected.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Base, as the operator says or as detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Prediction type, as the operator says or as detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// Hashes of the model's file, those that are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
}

/// Where a side-car comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Id of the job.
    pub job: String,
    /// Version of the metadata of people.
    pub version: i64,
}

/// Hashes in lower-case hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hashes {
    /// BLAKE3 of the file, or of the names and BLAKE3s of all files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 of what follows a safetensors header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_sha256: Option<String>,
}

/// Whether a JSON document is a side-car of this schema, of any version.
pub(crate) fn is_ours(document: &Value) -> bool {
    document.get("schema").and_then(Value::as_str).is_some_and(|schema| schema.starts_with(SCHEMA_NAME))
}

/// The job that wrote the side-car at `path`; none when it is somebody else's document.
pub(super) fn writer_of(path: &Path) -> Option<String> {
    let (value, _) = read_json(path, "", "side-car", LIMIT_BYTES).ok()?;
    let job = value.get("written")?.get("job")?.as_str()?.to_owned();
    is_ours(&value).then_some(job)
}
