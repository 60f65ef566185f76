//! What a `metadata_write` job is asked to write, and where that may be.

use serde::{Deserialize, Serialize};

use crate::ids::ModelId;

/// Longest path below a root, in bytes.
const PATH_BYTES: usize = 1024;

/// The form in which metadata is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteForm {
    /// A JSON document beside the model.
    #[default]
    Sidecar,
    /// A safetensors file with the same tensors byte for byte and more metadata in its header.
    Copy,
}

impl WriteForm {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Copy => "copy",
        }
    }

    /// What files of this form end with.
    fn ending(self) -> &'static str {
        match self {
            Self::Sidecar => ".json",
            Self::Copy => ".safetensors",
        }
    }

    /// The path of what is written of the model at `rel_path`, where none is given: beside it, of the same stem.
    pub fn default_path(self, rel_path: &str) -> String {
        let name_at = rel_path.rfind('/').map_or(0, |slash| slash.saturating_add(1));
        let (folder, name) = rel_path.split_at_checked(name_at).unwrap_or(("", rel_path));
        let name = name.strip_suffix(".index.json").unwrap_or(name);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        match self {
            Self::Sidecar => format!("{folder}{stem}.json"),
            Self::Copy => format!("{folder}{stem}-described.safetensors"),
        }
    }

    /// Whether something of this form may be written to a path below a root: plain parts, none hidden, the right ending.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_path(self, path: &str) -> Result<(), String> {
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        if path.len() > PATH_BYTES || path.chars().any(char::is_control) {
            return Err(format!("longer than {PATH_BYTES} bytes, or with control characters"));
        }
        if !path.split('/').all(plain) {
            return Err("not a path below the root, or with a hidden part".to_owned());
        }
        let stem = path.strip_suffix(self.ending());
        if stem.is_none_or(|stem| stem.is_empty() || stem.ends_with('/')) {
            return Err(format!("does not end with `{}`", self.ending()));
        }
        Ok(())
    }
}

impl std::str::FromStr for WriteForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Sidecar, Self::Copy]
            .into_iter()
            .find(|form| form.as_str() == text)
            .ok_or_else(|| format!("`{text}` is neither sidecar nor copy"))
    }
}

/// A part of what is known of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WritePart {
    /// Title, of people before that of files.
    Title,
    /// Description, of people before that of files.
    Description,
    /// Tags of people and files.
    Tags,
    /// Trigger words of files.
    TriggerWords,
    /// Notes of people.
    Notes,
    /// Rating of people.
    Rating,
    /// Licence, of people before that of files.
    License,
    /// Whatever else people say.
    Extra,
    /// Type, base and prediction type.
    Identity,
    /// Hashes that are known.
    Hashes,
}

/// Arguments of `metadata_write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetadataWriteArgs {
    /// The model.
    pub model: ModelId,
    /// In which form.
    #[serde(rename = "as", default)]
    pub form: WriteForm,
    /// Path below the model's root; beside the model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Replace what an earlier job of this kind wrote there.
    #[serde(default)]
    pub overwrite: bool,
    /// Only these parts; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<WritePart>,
    /// Only if the metadata of people is still of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

impl MetadataWriteArgs {
    /// Whether a part is to be written.
    pub fn includes(&self, part: WritePart) -> bool {
        self.include.is_empty() || self.include.contains(&part)
    }

    /// What equal requests have in common.
    pub(super) fn key(&self) -> String {
        let mut parts: Vec<String> = self.include.iter().map(|part| format!("{part:?}")).collect();
        parts.sort();
        let to = self.to.as_deref().unwrap_or_default();
        let version = self.version.map(|version| version.to_string()).unwrap_or_default();
        format!("{}/{}/{}/{}/{version}/{to}", self.model, self.form.as_str(), self.overwrite, parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_beside_the_model_unless_given() {
        assert_eq!(WriteForm::Sidecar.default_path("a/b.v1.safetensors"), "a/b.v1.json");
        assert_eq!(WriteForm::Copy.default_path("b.safetensors"), "b-described.safetensors");
        assert_eq!(WriteForm::Sidecar.default_path("a/b.safetensors.index.json"), "a/b.json");
        assert_eq!(WriteForm::Sidecar.default_path("folder"), "folder.json");
    }

    #[test]
    fn paths_stay_below_the_root() {
        for path in ["a.json", "a/b c.json"] {
            assert_eq!(WriteForm::Sidecar.check_path(path), Ok(()), "{path}");
        }
        for path in ["", "/a.json", "../a.json", "a/../b.json", "a//b.json", ".a.json", "a/.json", "a.txt", "a\0.json"]
        {
            assert!(WriteForm::Sidecar.check_path(path).is_err(), "{path}");
        }
        assert!(WriteForm::Copy.check_path("a.json").is_err());
    }
}
