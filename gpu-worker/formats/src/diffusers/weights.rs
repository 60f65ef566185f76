//! Finding a component's weight files in its folder, choosing the variant that is read, and reading its headers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::index::{self, ShardSet};
use crate::{error::FormatError, text::shown};

/// Base names of weight files: of diffusers, of transformers.
const STEMS: &[&str] = &["diffusion_pytorch_model", "model"];
/// The same for pickles, which transformers names otherwise.
const PICKLE_STEMS: &[&str] = &["diffusion_pytorch_model", "pytorch_model"];
/// What the weights without a variant in their names are called.
pub(crate) const DEFAULT: &str = "default";

/// A weight file (or index) that could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) name: String,
    variant: Option<String>,
    pub(super) sharded: bool,
    /// A PyTorch pickle, which is only taken when there is nothing better.
    pub(super) pickled: bool,
    /// An index as older releases of diffusers named it, which is only taken without one of the name of today.
    legacy: bool,
}

impl Choice {
    /// Which of a chosen variant's weights diffusers takes: of its own models an index before a whole file, of those of transformers after it.
    fn rank_in_variant(&self) -> (bool, bool, bool, &str) {
        let is_own = self.name.starts_with(STEMS[0]);
        (self.pickled, is_own != self.sharded, self.legacy, &self.name)
    }

    /// The name of its variant.
    pub(super) fn variant(&self) -> &str {
        self.variant.as_deref().unwrap_or(DEFAULT)
    }
}

/// A shard by its own name, whether or not an index names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) name: String,
    variant: Option<String>,
    pub(super) pickled: bool,
}

impl Shard {
    /// The name of its variant.
    pub(super) fn variant(&self) -> &str {
        self.variant.as_deref().unwrap_or(DEFAULT)
    }
}

/// Why weights are the ones that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Why {
    /// They come first in the usual order.
    UsualOrder,
    /// Somebody chose their variant.
    Chosen,
    /// Somebody chose a variant that the component does not have.
    WithoutChosen,
}

/// The weight files of a component's folder.
#[derive(Debug)]
pub(super) struct Weights {
    folder: PathBuf,
    /// What can be read, best first: safetensors before pickles, then without variant, fp16, others; whole before sharded.
    pub(super) choices: Vec<Choice>,
    pub(super) shards: Vec<Shard>,
    /// Files whose variant has the name that stands for none; nobody could choose them.
    pub(super) unnamed: Vec<String>,
    /// What to say where nothing can be read.
    absent: String,
}

/// The weight files in `folder`.
pub(super) fn find(folder: &Path) -> Result<Weights, FormatError> {
    let names = names(folder)?;
    let (mut choices, mut unnamed) = (Vec::new(), Vec::new());
    for choice in names.iter().filter_map(|name| choice(name)) {
        if choice.variant.as_deref() == Some(DEFAULT) { unnamed.push(choice.name) } else { choices.push(choice) }
    }
    let order = |choice: &Choice| {
        (choice.pickled, rank(choice.variant.as_deref()), choice.sharded, choice.legacy, choice.name.clone())
    };
    choices.sort_by_key(order);
    let shards = names.iter().filter_map(|name| shard(name)).filter(|shard| shard.variant.as_deref() != Some(DEFAULT));
    let shards = shards.collect();
    Ok(Weights { folder: folder.to_owned(), choices, shards, unnamed, absent: absent(&names) })
}

impl Weights {
    /// The names of the variants that there are files of.
    pub(super) fn variants(&self) -> BTreeSet<&str> {
        self.choices.iter().map(Choice::variant).chain(self.shards.iter().map(Shard::variant)).collect()
    }

    /// What to read: of a chosen variant its best, and where it has no file those without a variant, as diffusers does; else the best.
    pub(super) fn choose(&self, chosen: Option<&str>) -> Result<(&Choice, Why), FormatError> {
        let nothing = |why: String| FormatError::NoWeights { path: self.folder.clone(), why };
        let Some(chosen) = chosen else {
            let best = self.choices.first().map(|choice| (choice, Why::UsualOrder));
            return best.ok_or_else(|| nothing(self.absent.clone()));
        };
        let best = |name: &str| {
            let of = self.choices.iter().filter(|choice| choice.variant() == name);
            of.min_by_key(|choice| choice.rank_in_variant())
        };
        if self.variants().contains(chosen) {
            let why = || nothing(format!("of the variant `{}` only shards without an index", shown(chosen)));
            return best(chosen).map(|choice| (choice, Why::Chosen)).ok_or_else(why);
        }
        if self.variants().is_empty() {
            return Err(nothing(self.absent.clone()));
        }
        let none = || FormatError::NoVariant {
            path: self.folder.clone(),
            variant: chosen.to_owned(),
            has: self.variants().into_iter().map(str::to_owned).collect(),
        };
        best(DEFAULT).map(|choice| (choice, Why::WithoutChosen)).ok_or_else(none)
    }
}

/// Reads the headers behind a choice. `below` precedes file names in relative paths.
pub(super) fn read(folder: &Path, below: &str, choice: &Choice) -> Result<ShardSet, FormatError> {
    let (path, rel_path) = (folder.join(&choice.name), format!("{below}{}", choice.name));
    if choice.sharded {
        return index::read(&path, &rel_path, below);
    }
    index::shard(&path, &rel_path)
}

/// The same for weights that are not the ones that are wanted, while so many shards of an index may be looked at.
pub(super) fn read_within(
    folder: &Path,
    below: &str,
    choice: &Choice,
    left: &mut usize,
) -> Result<Option<ShardSet>, FormatError> {
    if !choice.sharded {
        return read(folder, below, choice).map(Some);
    }
    index::read_within(&folder.join(&choice.name), &format!("{below}{}", choice.name), below, left)
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
    let legacy = sharded && variant.is_some() && name.ends_with(".index.json");
    known(stem, pickled).then(|| Choice {
        name: name.to_owned(),
        variant: variant.map(str::to_owned),
        sharded,
        pickled,
        legacy,
    })
}

fn shard(name: &str) -> Option<Shard> {
    let parts = index::shard_name(name)?;
    let pickled = name.ends_with(".bin");
    let variant = parts.variant.map(str::to_owned);
    known(parts.stem, pickled).then(|| Shard { name: name.to_owned(), variant, pickled })
}

fn known(stem: &str, pickled: bool) -> bool {
    if pickled { PICKLE_STEMS } else { STEMS }.contains(&stem)
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
        assert_eq!(of("model.safetensors.fp16.index.json"), Some((Some("fp16".to_owned()), true)));
        assert_eq!(of("model.safetensors.index.json"), Some((None, true)));
        assert_eq!(of("model.fp16-00001-of-00002.safetensors"), None);
        assert_eq!(of("model-00001-of-00002.safetensors"), None);
        assert_eq!(of("model-00001-of-00002.fp16.safetensors"), None);
        assert_eq!(of("other.safetensors"), None);
        assert_eq!(of("pytorch_model.fp16.bin"), Some((Some("fp16".to_owned()), false)));
        assert_eq!(of("pytorch_model.bin.index.json"), Some((None, true)));
        assert_eq!(of("pytorch_model.bin.index.fp16.json"), Some((Some("fp16".to_owned()), true)));
        assert_eq!(of("pytorch_model.bin.fp16.index.json"), Some((Some("fp16".to_owned()), true)));
        assert_eq!(of("model.bin.index.json"), None);
        assert_eq!(of("model.bin"), None);
        assert_eq!(of("pytorch_model-00001-of-00002.bin"), None);
    }

    #[test]
    fn shards_belong_to_the_variant_in_their_names() {
        let of = |name: &str| shard(name).map(|shard| (shard.variant().to_owned(), shard.pickled));
        assert_eq!(of("model-00001-of-00002.safetensors"), Some((DEFAULT.to_owned(), false)));
        assert_eq!(of("model.fp16-00001-of-00002.safetensors"), Some(("fp16".to_owned(), false)));
        assert_eq!(of("model-00001-of-00002.fp16.safetensors"), Some(("fp16".to_owned(), false)));
        assert_eq!(of("pytorch_model.fp16-00001-of-00002.bin"), Some(("fp16".to_owned(), true)));
        assert_eq!(of("model-1-of-2.fp16.safetensors"), None, "not the numbers that diffusers writes");
        assert_eq!(of("other-00001-of-00002.safetensors"), None);
        assert_eq!(of("model.fp16.safetensors"), None);
    }

    fn weights(names: &[&str]) -> Weights {
        let folder = tempfile::TempDir::new().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        find(folder.path()).unwrap()
    }

    #[test]
    fn of_a_chosen_variant_what_diffusers_takes_comes_first() {
        let chosen = |names: &[&str]| weights(names).choose(Some("fp16")).unwrap().0.name.clone();
        let now = "diffusion_pytorch_model.safetensors.index.fp16.json";
        let before = "diffusion_pytorch_model.safetensors.fp16.index.json";
        let whole = "diffusion_pytorch_model.fp16.safetensors";
        assert_eq!(chosen(&[before, now]), now);
        assert_eq!(chosen(&[before, now, whole]), now);
        assert_eq!(chosen(&[before, whole]), before);
        assert_eq!(chosen(&[whole, "diffusion_pytorch_model.bin.index.fp16.json"]), whole);
        // transformers looks for the whole file first
        let (whole, index) = ("model.fp16.safetensors", "model.safetensors.index.fp16.json");
        assert_eq!(chosen(&[index, whole]), whole);
        // without a choice, the usual order
        let usual = weights(&[before, now]);
        assert_eq!(usual.choose(None).unwrap().0.name, now);
    }

    #[test]
    fn a_variant_with_the_name_of_the_plain_weights_is_not_one_of_them() {
        let (plain, named) = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.default.safetensors");
        let both = weights(&[named, "model.default-00001-of-00002.safetensors", plain]);
        assert_eq!((both.choices.len(), both.shards.len(), &both.unnamed[..]), (1, 0, &[named.to_owned()][..]));
        assert_eq!(both.choose(Some(DEFAULT)).unwrap().0.name, plain);
        assert!(weights(&[named]).choose(None).is_err());
    }

    #[test]
    fn a_chosen_variant_is_read_where_it_is_and_the_plain_weights_where_it_is_not() {
        let plain = "diffusion_pytorch_model.safetensors";
        let half = "diffusion_pytorch_model.fp16.safetensors";
        let both = weights(&[plain, half, "diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.ema.bin"]);
        let of = |weights: &Weights, chosen| {
            weights.choose(chosen).map(|(choice, why)| (choice.name.clone(), why)).map_err(|error| error.to_string())
        };
        assert_eq!(of(&both, None), Ok((plain.to_owned(), Why::UsualOrder)));
        assert_eq!(of(&both, Some("fp16")), Ok((half.to_owned(), Why::Chosen)));
        assert_eq!(of(&both, Some("ema")), Ok(("diffusion_pytorch_model.ema.bin".to_owned(), Why::Chosen)));
        assert_eq!(of(&both, Some(DEFAULT)), Ok((plain.to_owned(), Why::Chosen)));
        assert_eq!(of(&both, Some("bf16")), Ok((plain.to_owned(), Why::WithoutChosen)));
        let halves = weights(&[half, "diffusion_pytorch_model.bf16-00001-of-00002.safetensors"]);
        assert_eq!(of(&halves, None), Ok((half.to_owned(), Why::UsualOrder)));
        let none = of(&halves, Some(DEFAULT)).unwrap_err();
        assert!(none.contains("variant `default`") && none.contains("`bf16`, `fp16`"), "{none}");
        assert!(of(&halves, Some("bf16")).unwrap_err().contains("only shards without an index"));
        assert!(of(&weights(&["readme"]), Some("fp16")).unwrap_err().contains("no weight file"));
    }
}
