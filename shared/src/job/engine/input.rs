//! Where a job takes its data from, and in which form it leaves images.

use serde::{Deserialize, Serialize};

use super::faults::Faults;
use crate::ids::{JobId, UploadId};

/// Longest path below a root, in bytes.
const PATH_BYTES: usize = 1024;
/// Longest name of an artifact, in bytes.
const NAME_BYTES: usize = 128;

/// Data for a job: what was uploaded, a file below a root of the host, or what another job made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "an input is `{\"upload\": <id>}`, `{\"root\": <name>, \"path\": <path>}` or `{\"artifact\": {\"job\": <id>, \"name\": <name>}}`"
)]
pub enum Input {
    /// What `POST /v1/uploads` took.
    Upload {
        /// Its id.
        upload: UploadId,
    },
    /// A file of the host that runs the job.
    File {
        /// Name of a root of that host.
        root: String,
        /// Path below it.
        path: String,
    },
    /// What a job that succeeded made.
    Artifact {
        /// Which.
        artifact: ArtifactRef,
    },
}

/// An artifact of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// The job.
    pub job: JobId,
    /// The artifact's name.
    pub name: String,
}

impl Input {
    /// The root that a host must have to run a job with this input.
    pub fn root(&self) -> Option<&str> {
        match self {
            Self::File { root, .. } => Some(root),
            Self::Upload { .. } | Self::Artifact { .. } => None,
        }
    }

    /// True when the bytes are the same whenever they are read.
    pub fn is_immutable(&self) -> bool {
        !matches!(self, Self::File { .. })
    }

    pub(super) fn check(&self, pointer: &str, faults: &mut Faults) {
        match self {
            Self::Upload { .. } => {}
            Self::File { root, path } => {
                faults.text(&format!("{pointer}/root"), root, NAME_BYTES);
                if let Err(why) = check_path(path) {
                    faults.add(format!("{pointer}/path"), why);
                }
            }
            Self::Artifact { artifact } => {
                if let Err(why) = check_artifact_name(&artifact.name) {
                    faults.add(format!("{pointer}/artifact/name"), why);
                }
            }
        }
    }
}

fn check_path(path: &str) -> Result<(), String> {
    if path.len() > PATH_BYTES || path.chars().any(char::is_control) {
        return Err(format!("longer than {PATH_BYTES} bytes, or with control characters"));
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("not a path below the root".to_owned());
    }
    Ok(())
}

/// Whether an artifact may have this name: letters, digits, `.`, `_` and `-`, not hidden.
///
/// # Errors
/// What is wrong with it.
pub fn check_artifact_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("not a name of 1 to {NAME_BYTES} letters, digits, `.`, `_` and `-`, or hidden"));
    }
    Ok(())
}

/// In which form images are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// PNG, 8 bits a channel.
    #[default]
    Png,
    /// WebP without loss, 8 bits a channel.
    Webp,
    /// A safetensors file with the tensor `image`: float32 (N, 3, H, W) in −1..1, as it leaves the VAE.
    Safetensors,
}

impl ImageFormat {
    /// The stable name, which is also the ending of files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Safetensors => "safetensors",
        }
    }

    /// The media type of files of this form.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Safetensors => "application/vnd.safetensors",
        }
    }
}

impl std::str::FromStr for ImageFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Png, Self::Webp, Self::Safetensors]
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not one of png, webp, safetensors"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_have_three_forms_and_others_are_explained() {
        for value in [
            json!({ "upload": UploadId::generate() }),
            json!({ "root": "main", "path": "a/b.png" }),
            json!({ "artifact": { "job": JobId::generate(), "name": "latents.safetensors" } }),
        ] {
            let input: Input = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(&input).unwrap(), value);
        }
        for value in [json!({}), json!("a.png"), json!({ "root": "main", "path": "a", "upload": "b" })] {
            let error = serde_json::from_value::<Input>(value).unwrap_err();
            assert!(error.to_string().contains("an input is `{\"upload\""), "{error}");
        }
    }

    #[test]
    fn paths_stay_below_the_root_and_names_are_plain() {
        for path in ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a\0b", "a\nb"] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert_eq!(check_path("in put/ä.png"), Ok(()));
        for name in ["", ".a", "a/b", "..", "a\0", "a b", "ä.png"] {
            assert!(check_artifact_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_artifact_name("image-0.png"), Ok(()));
    }
}
