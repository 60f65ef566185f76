//! What people say of models, on the wire: metadata, corrections, searches.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ids::ModelId,
    job::{Target, WriteForm, WritePart},
};

/// What people say of a model. It is kept in the database; files are never changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserMetadata {
    /// Title, at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Description, at most 16384 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// At most 64 tags of at most 64 characters.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Notes, at most 65536 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// 0 to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rating: Option<u8>,
    /// Licence, at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Anything else: a JSON object of at most 65536 bytes, nested at most 16 deep.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub extra: Map<String, Value>,
}

/// A model's metadata, that of files apart from that of people.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MetadataView {
    /// The model.
    pub model: ModelId,
    /// Its name.
    pub name: String,
    /// What its files say, with sources.
    #[schema(value_type = Object)]
    pub extracted: Value,
    /// What people say.
    pub user: UserMetadata,
    /// Version of what people say; 0 when nobody has said anything.
    pub version: i64,
    /// When that was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<DateTime<Utc>>,
}

/// `POST /v1/models/{model}/metadata/write`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataWriteRequest {
    /// `sidecar` (default) or `copy`.
    #[serde(rename = "as")]
    pub form: WriteForm,
    /// Path below the model's root, ending with `.json` or `.safetensors`; beside the model when absent: `<stem>.json`, or
    /// `<stem>-described.safetensors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Replace what an earlier job of this kind wrote there. Nothing else is ever replaced.
    pub overwrite: bool,
    /// Only these parts; all when empty.
    pub include: Vec<WritePart>,
    /// `any` (default) host with the files, or `host:<name>`.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Higher goes first.
    pub priority: i32,
}

/// One change of what people say of a model.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MetadataChange {
    /// The version that it made.
    pub version: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who, as the request said in `Modelyard-Actor`; `unnamed` when it did not.
    pub who: String,
    /// Before.
    pub before: UserMetadata,
    /// After.
    pub after: UserMetadata,
}

/// What the files say a model is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Detected {
    /// Type, or `unknown`.
    #[serde(rename = "type")]
    pub model_type: String,
    /// Base, or `unknown`.
    pub base: String,
    /// Prediction type where knowable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
}

/// What the operator says against the detection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Prediction type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// The variant of a folder's weights that is read: `fp16`, …; `default` is what has no variant in its name. A component without files of it
    /// is read from those of `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// A diffusers `config.json` by component, for files whose widths or depths are no known family's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub config: BTreeMap<String, Map<String, Value>>,
}

/// A search. What is absent matches everything; lists match any of their values, tags must all be there.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// Words of the name, title, tags, trigger words, description or path: each begins a word there, or is near to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Part of the name, any case; of one or two characters, its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Types: `checkpoint`, `vae`, `lora`, …
    #[serde(rename = "type", default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Bases: `sd15`, `sdxl`, …
    #[serde(rename = "base", default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<String>,
    /// Formats: `safetensors`, `diffusers`, …
    #[serde(rename = "format", default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// Dtypes of the weights: `fp16`, …
    #[serde(rename = "dtype", default, skip_serializing_if = "Vec::is_empty")]
    pub dtypes: Vec<String>,
    /// Prediction types.
    #[serde(rename = "prediction", default, skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<String>,
    /// Verdicts of the last validation: `ok`, `degraded`, `invalid`, `unsafe`; `stale` where the files are others by now, `none`
    /// where there was none.
    #[serde(rename = "verdict", default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<String>,
    /// States: `available`, `missing`, `unreadable`.
    #[serde(rename = "state", default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// With a component of one of these kinds.
    #[serde(rename = "component", default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// With all of these tags, any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Least bytes on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_min: Option<u64>,
    /// Most bytes on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_max: Option<u64>,
    /// A hash, or at least its first 8 digits: SHA-256 of the file (AutoV2 is its first 10) or of the payload, or BLAKE3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// On the disk of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// With a component ready in this tier: `ram` or `vram`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// `rank` (with a text only, the best first), `name`, `size`, `created` or `updated`; `-` in front reverses. Absent: `rank`
    /// with a text, else `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_sent() {
        assert_eq!(serde_json::to_string(&Overrides::default()).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&SearchRequest::default()).unwrap(), "{}");
        let said: UserMetadata = serde_json::from_str(r#"{"tags":["a"]}"#).unwrap();
        assert_eq!(serde_json::to_string(&said).unwrap(), r#"{"tags":["a"],"extra":{}}"#);
        assert!(serde_json::from_str::<UserMetadata>(r#"{"colour":1}"#).is_err());
    }
}
