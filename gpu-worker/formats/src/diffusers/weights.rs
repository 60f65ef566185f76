//! Finding a component's weight file in its folder, and reading its header.

use std::path::Path;

use super::index::{self, ShardSet};
use crate::error::FormatError;

/// Base names of weight files: of diffusers, of transformers.
const STEMS: &[&str] = &["diffusion_pytorch_model", "model"];
/// The same for pickles, which transformers names otherwise.
const PICKLE_STEMS: &[&str] = &["diffusion_pytorch_model", "pytorch_model"];

/// A weight file (or index) that could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) name: String,
    pub(super) variant: Option<String>,
    pub(super) sharded: bool,
    /// A PyTorch pickle, which is only taken when there is nothing better.
    pub(super) pickled: bool,
}

/// The choices in `folder`, best first: safetensors before pickles, then without variant, fp16, others; whole before
/// sharded.
pub(super) fn find(folder: &Path) -> Result<Vec<Choice>, FormatError> {
    let names = names(folder)?;
    let mut choices: Vec<Choice> = names.iter().filter_map(|name| choice(name)).collect();
    choices
        .sort_by_key(|choice| (choice.pickled, rank(choice.variant.as_deref()), choice.sharded, choice.name.clone()));
    if choices.is_empty() {
        return Err(FormatError::NoWeights { path: folder.to_owned(), why: absent(&names) });
    }
    Ok(choices)
}

/// Reads the headers behind a choice. `below` precedes file names in relative paths.
pub(super) fn read(folder: &Path, below: &str, choice: &Choice) -> Result<ShardSet, FormatError> {
    let (path, rel_path) = (folder.join(&choice.name), format!("{below}{}", choice.name));
    if choice.sharded {
        return index::read(&path, &rel_path, below);
    }
    index::shard(&path, &rel_path)
}

/// The plain names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, FormatError> {
    let failed = |source| FormatError::io(folder, "listing it", source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        // a name that is not UTF-8 is none of the fixed names searched for here
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn choice(name: &str) -> Option<Choice> {
    let (stem, variant, sharded) = match index::parse_name(name) {
        Some((stem, variant)) => (stem, variant, true),
        None => {
            let whole = name.strip_suffix(".safetensors").or_else(|| name.strip_suffix(".bin"))?;
            match whole.split_once('.') {
                Some((_, variant)) if variant.contains("-of-") => return None,
                Some((stem, variant)) => (stem, Some(variant), false),
                None => (whole, None, false),
            }
        }
    };
    let pickled = name.ends_with(".bin") || index::is_pickled(name);
    let known = if pickled { PICKLE_STEMS } else { STEMS }.contains(&stem);
    known.then(|| Choice { name: name.to_owned(), variant: variant.map(str::to_owned), sharded, pickled })
}

fn rank(variant: Option<&str>) -> u8 {
    match variant {
        None => 0,
        Some("fp16") => 1,
        Some(_) => 2,
    }
}

/// Why there is nothing to read.
fn absent(names: &[String]) -> String {
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    if ends(".bin") {
        "only .bin weights in shards without an index, or under an unknown name".to_owned()
    } else if ends(".onnx") {
        "only ONNX weights, which this version does not read".to_owned()
    } else if ends(".safetensors") {
        "shards without an index, or weights under an unknown name".to_owned()
    } else {
        "no weight file".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let of = |name: &str| choice(name).map(|choice| (choice.variant, choice.sharded));
        assert_eq!(of("diffusion_pytorch_model.safetensors"), Some((None, false)));
        assert_eq!(of("model.fp16.safetensors"), Some((Some("fp16".to_owned()), false)));
        assert_eq!(of("model.safetensors.index.fp16.json"), Some((Some("fp16".to_owned()), true)));
        assert_eq!(of("model.safetensors.index.json"), Some((None, true)));
        assert_eq!(of("model.fp16-00001-of-00002.safetensors"), None);
        assert_eq!(of("model-00001-of-00002.safetensors"), None);
        assert_eq!(of("other.safetensors"), None);
        assert_eq!(of("pytorch_model.fp16.bin"), Some((Some("fp16".to_owned()), false)));
        assert_eq!(of("pytorch_model.bin.index.json"), Some((None, true)));
        assert_eq!(of("pytorch_model.bin.index.fp16.json"), Some((Some("fp16".to_owned()), true)));
        assert_eq!(of("model.bin.index.json"), None);
        assert_eq!(of("model.bin"), None);
        assert_eq!(of("pytorch_model-00001-of-00002.bin"), None);
    }
}
