//! Which files of a folder belong to which: side-cars to the model of the same stem, weights and
//! tokenizer files to the folder they make a model of.

use std::path::Path;

use crate::{
    diffusers::index,
    inspect::extension,
    sidecar::{self, Sidecar},
};

/// Names of weight files that make their folder, with a `config.json`, one model.
const COMPONENT_STEMS: &[&str] = &["diffusion_pytorch_model", "model", "pytorch_model"];

/// The side-cars of the model file `name` among the sorted `names` of its folder.
pub(super) fn sidecars(folder: &Path, name: &str, names: &[String]) -> Vec<Sidecar> {
    let stem = stem(name);
    let first = names.partition_point(|other| other.as_str() < stem);
    let alike = names.iter().skip(first).take_while(|other| other.starts_with(stem));
    alike
        .filter(|other| other.as_str() != name)
        .filter_map(|other| Some(Sidecar { kind: sidecar::classify(stem, other)?, path: folder.join(other) }))
        .collect()
}

/// The name without the model's extension (of a sharded model: without the index's).
fn stem(name: &str) -> &str {
    match index::parse_name(name) {
        Some((stem, _)) => stem,
        None => name.rsplit_once('.').map_or(name, |(stem, _)| stem),
    }
}

/// Whether a folder with these names is one component: a config and weights under their usual name.
pub(super) fn is_component(names: &[String]) -> bool {
    names.iter().any(|name| name == "config.json") && names.iter().any(|name| is_component_weight(name))
}

/// Whether `name` is a weight file of a component folder: plain, of a variant, a shard, or an index.
pub(super) fn is_component_weight(name: &str) -> bool {
    let weights =
        matches!(extension(Path::new(name)).as_str(), "safetensors" | "bin") || index::parse_name(name).is_some();
    weights
        && COMPONENT_STEMS
            .iter()
            .any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-')))
}

/// The name of the repository, if `folder` is a snapshot in a download cache:
/// `models--org--name/snapshots/<revision>` → `name`.
#[must_use]
pub fn cached_repository(folder: &Path) -> Option<String> {
    let snapshots = folder.parent()?;
    if snapshots.file_name()? != "snapshots" {
        return None;
    }
    let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    repository.rsplit("--").next().filter(|name| !name.is_empty()).map(str::to_owned)
}
