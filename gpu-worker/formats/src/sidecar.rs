//! Files that accompany a model and are none themselves: which they are, and what the readable ones say.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::{
    error::FormatError,
    inspection::FileFacts,
    probe::{Probe, read_json, stat},
};

/// Largest side-car document that is read.
const DOCUMENT_LIMIT_BYTES: u64 = 4 << 20;
/// Largest training or model config in YAML that is read.
const YAML_LIMIT_BYTES: u64 = 256 << 10;

/// What a file beside a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SidecarKind {
    /// `<stem>.civitai.info`: a model version as the site describes it.
    CivitaiInfo,
    /// `<stem>.metadata.json` of a library manager.
    ManagerMetadata,
    /// `<stem>.cm-info.json` of a library manager.
    ManagerInfo,
    /// `<stem>.json`: notes of a web interface.
    Notes,
    /// `<stem>.yaml`: the original architecture config.
    Config,
    /// `<stem>.preview.png` and other pictures.
    Preview,
    /// `<stem>.vae.pt` or `.vae.safetensors`: the VAE to use with the checkpoint.
    CompanionVae,
    /// `<stem>.txt` or `.md`: a description.
    Text,
}

/// A side-car of one model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sidecar {
    /// What it is.
    pub kind: SidecarKind,
    /// Absolute path.
    pub path: PathBuf,
}

/// Endings after the model's stem; longer ones before those they end with.
const ENDINGS: &[(&str, SidecarKind)] = &[
    (".civitai.info", SidecarKind::CivitaiInfo),
    (".metadata.json", SidecarKind::ManagerMetadata),
    (".cm-info.json", SidecarKind::ManagerInfo),
    (".json", SidecarKind::Notes),
    (".yaml", SidecarKind::Config),
    (".yml", SidecarKind::Config),
    (".preview.png", SidecarKind::Preview),
    (".preview.jpg", SidecarKind::Preview),
    (".preview.jpeg", SidecarKind::Preview),
    (".preview.webp", SidecarKind::Preview),
    (".png", SidecarKind::Preview),
    (".jpg", SidecarKind::Preview),
    (".jpeg", SidecarKind::Preview),
    (".webp", SidecarKind::Preview),
    (".vae.pt", SidecarKind::CompanionVae),
    (".vae.safetensors", SidecarKind::CompanionVae),
    (".vae.ckpt", SidecarKind::CompanionVae),
    (".txt", SidecarKind::Text),
    (".md", SidecarKind::Text),
];

/// What `name` is to the model with this stem; none when it is no side-car of it.
#[must_use]
pub fn classify(stem: &str, name: &str) -> Option<SidecarKind> {
    let rest = name.strip_prefix(stem)?.to_ascii_lowercase();
    ENDINGS.iter().find(|(ending, _)| *ending == rest).map(|(_, kind)| *kind)
}

/// Identity of a side-car: what changes when it is written again.
///
/// # Errors
/// [`FormatError`] when it is gone or no regular file.
pub fn facts(sidecar: &Sidecar) -> Result<FileFacts, FormatError> {
    let name = sidecar.path.file_name().unwrap_or_default().to_string_lossy();
    stat(&sidecar.path, &name)
}

/// What a side-car says.
#[derive(Debug)]
pub(crate) enum Content {
    /// A JSON document.
    Document(Value),
    /// Text of a config, of which single settings are looked up.
    Text(String),
    /// Nothing that is read.
    None,
}

/// Reads a side-car, if its kind is one that is read.
pub(crate) fn read(sidecar: &Sidecar) -> Result<Content, FormatError> {
    match sidecar.kind {
        SidecarKind::CivitaiInfo | SidecarKind::ManagerMetadata | SidecarKind::ManagerInfo | SidecarKind::Notes => {
            read_json(&sidecar.path, "", "side-car", DOCUMENT_LIMIT_BYTES).map(|(value, _)| Content::Document(value))
        }
        SidecarKind::Config => text(&sidecar.path).map(Content::Text),
        SidecarKind::Preview | SidecarKind::CompanionVae | SidecarKind::Text => Ok(Content::None),
    }
}

fn text(path: &Path) -> Result<String, FormatError> {
    let probe = Probe::open(path, "")?;
    let size = probe.facts.size;
    let too_large = || FormatError::DocumentTooLarge { path: path.to_owned(), size, limit: YAML_LIMIT_BYTES };
    if size > YAML_LIMIT_BYTES {
        return Err(too_large());
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_large())?];
    probe.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_the_stem_they_begin_with() {
        let kind = |name| classify("a.v1", name);
        assert_eq!(kind("a.v1.civitai.info"), Some(SidecarKind::CivitaiInfo));
        assert_eq!(kind("a.v1.json"), Some(SidecarKind::Notes));
        assert_eq!(kind("a.v1.cm-info.json"), Some(SidecarKind::ManagerInfo));
        assert_eq!(kind("a.v1.metadata.json"), Some(SidecarKind::ManagerMetadata));
        assert_eq!(kind("a.v1.Preview.PNG"), Some(SidecarKind::Preview));
        assert_eq!(kind("a.v1.vae.pt"), Some(SidecarKind::CompanionVae));
        assert_eq!(kind("a.v1.safetensors"), None);
        assert_eq!(kind("a.v1.b.json"), None);
        assert_eq!(classify("a", "a.v1.json"), None);
    }
}
