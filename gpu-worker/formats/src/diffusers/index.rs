//! Sharded weights, safetensors or PyTorch pickles: the index file and the shards beside it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use serde_json::Value;

use crate::{
    error::{FormatError, ShardProblem},
    inspection::{FileFacts, TensorFacts},
    pickle,
    probe::{Probe, read_json, sniff},
    safetensors,
    vocab::Format,
};

/// Largest index that is read.
const INDEX_LIMIT_BYTES: u64 = 64 << 20;

/// Endings of shards that there are readers for.
const ENDINGS: [&str; 2] = [".safetensors", ".bin"];

/// All shards of a model as one.
#[derive(Debug)]
pub(crate) struct ShardSet {
    /// How the shards are stored; of pickles, how the first is.
    pub(crate) format: Format,
    /// The index first, then the shards.
    pub(crate) files: Vec<FileFacts>,
    /// All tensors; `file` indexes `files`.
    pub(crate) tensors: Vec<TensorFacts>,
    /// The metadata of the first shard that has any.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Stem and variant, if `name` is an index: `model.safetensors.index.fp16.json` → (`model`, `fp16`), and
/// `pytorch_model.bin.index.json` → (`pytorch_model`, nothing). Older releases of diffusers put the variant first:
/// `model.safetensors.fp16.index.json`.
pub(crate) fn parse_name(name: &str) -> Option<(&str, Option<&str>)> {
    let name = name.strip_suffix(".json")?;
    let Some((stem, rest)) = ENDINGS.iter().find_map(|ending| name.split_once(&format!("{ending}.index"))) else {
        let name = name.strip_suffix(".index")?;
        let (stem, variant) = ENDINGS.iter().find_map(|ending| name.rsplit_once(&format!("{ending}.")))?;
        return (!variant.is_empty()).then_some((stem, Some(variant)));
    };
    match rest.strip_prefix('.') {
        Some(variant) if !variant.is_empty() => Some((stem, Some(variant))),
        _ if rest.is_empty() => Some((stem, None)),
        _ => None,
    }
}

/// Whether `name` is the index of pickles.
pub(crate) fn is_pickled(name: &str) -> bool {
    parse_name(name).is_some_and(|(stem, _)| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(".bin.")))
}

/// Whether an index may name a file of this name.
pub(crate) fn is_weights(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// A shard's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardName<'n> {
    /// What all shards of the set begin with.
    pub(crate) stem: &'n str,
    pub(crate) variant: Option<&'n str>,
    pub(crate) number: u64,
    pub(crate) total: u64,
}

/// Takes `name` apart if it is a shard: `model-00001-of-00003.safetensors`, `model.fp16-00001-of-00003.safetensors`, and as older releases of
/// diffusers write it, `model-00001-of-00003.fp16.safetensors`.
pub(crate) fn shard_name(name: &str) -> Option<ShardName<'_>> {
    let (rest, total) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?.rsplit_once("-of-")?;
    let (before, number) = rest.rsplit_once('-')?;
    // with a variant behind them, only numbers as diffusers writes them: other names have numbers and dots too
    let (total, last) = match total.split_once('.') {
        Some((total, variant)) if total.len() == 5 && number.len() == 5 => (total, Some(variant)),
        _ => (total, None),
    };
    let (stem, variant) = match before.split_once('.') {
        Some((stem, variant)) if last.is_none() => (stem, Some(variant)),
        _ => (before, last),
    };
    Some(ShardName { stem, variant, number: number.parse().ok()?, total: total.parse().ok()? })
}

/// Number and total, if `name` is a shard: `model-00001-of-00003.safetensors` → (1, 3).
pub(crate) fn shard_number(name: &str) -> Option<(u64, u64)> {
    shard_name(name).map(|shard| (shard.number, shard.total))
}

/// Reads the index at `path` and the headers of all its shards. `rel_path` is the index's own, `below`
/// what precedes a shard's name (`unet/`, or nothing).
pub(crate) fn read(path: &Path, rel_path: &str, below: &str) -> Result<ShardSet, FormatError> {
    let (document, facts) = open(path, rel_path)?;
    shards_of(path, (&document, facts), below)
}

/// [`read`] as long as `left` shards may be looked at, and takes those away; none where it names more.
pub(crate) fn read_within(
    path: &Path,
    rel_path: &str,
    below: &str,
    left: &mut usize,
) -> Result<Option<ShardSet>, FormatError> {
    let (document, facts) = open(path, rel_path)?;
    let shards: BTreeSet<&str> = weight_map(path, &document)?.into_values().collect();
    let Some(rest) = left.checked_sub(shards.len()) else { return Ok(None) };
    *left = rest;
    shards_of(path, (&document, facts), below).map(Some)
}

fn open(path: &Path, rel_path: &str) -> Result<(Value, FileFacts), FormatError> {
    read_json(path, rel_path, "shard index", INDEX_LIMIT_BYTES)
}

fn shards_of(path: &Path, (document, facts): (&Value, FileFacts), below: &str) -> Result<ShardSet, FormatError> {
    let places = weight_map(path, document)?;
    let shards: BTreeSet<&str> = places.values().copied().collect();
    complete(path, &shards)?;
    let mut set =
        ShardSet { format: Format::Safetensors, files: vec![facts], tensors: Vec::new(), metadata: BTreeMap::new() };
    let mut homes: HashMap<String, String> = HashMap::new();
    for shard in shards {
        must_be_plain(path, shard)?;
        let part = self::shard(&path.with_file_name(shard), &format!("{below}{shard}"))?;
        let first = set.files.len();
        if first == 1 {
            set.format = part.format;
        }
        for mut tensor in part.tensors {
            if homes.insert(tensor.name.clone(), shard.to_owned()).is_some() {
                return Err(shards_error(path, ShardProblem::Twice { tensor: tensor.name }));
            }
            tensor.file = first;
            set.tensors.push(tensor);
        }
        if set.metadata.is_empty() {
            set.metadata = part.metadata;
        }
        set.files.extend(part.files);
    }
    for (tensor, shard) in places {
        if homes.get(tensor).is_none_or(|home| home != shard) {
            return Err(shards_error(
                path,
                ShardProblem::NotThere { tensor: tensor.to_owned(), shard: shard.to_owned() },
            ));
        }
    }
    Ok(set)
}

/// A walk has seen where shards of the index's own stem lead, and no others.
fn must_be_plain(index: &Path, shard: &str) -> Result<(), FormatError> {
    let stem = index.file_name().and_then(|name| parse_name(name.to_str()?)).map_or("", |(stem, _)| stem);
    let path = index.with_file_name(shard);
    let is_link = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_symlink());
    if is_link && !shard.starts_with(stem) {
        return Err(FormatError::NotRegular { path, what: "a link to a shard of another name" });
    }
    Ok(())
}

/// One weight file, be it a shard or the whole.
pub(crate) fn shard(path: &Path, rel_path: &str) -> Result<ShardSet, FormatError> {
    let is_pickle = path.extension().is_some_and(|extension| extension == "bin");
    if is_pickle { pickled(path, rel_path) } else { plain(path, rel_path) }
}

/// A weight file whatever its name says.
pub(crate) fn any(path: &Path, rel_path: &str) -> Result<ShardSet, FormatError> {
    let head = Probe::open(path, rel_path)?.head()?;
    match sniff(&head, "") {
        Format::TorchZip | Format::Pickle => pickled(path, rel_path),
        _ => plain(path, rel_path),
    }
}

fn pickled(path: &Path, rel_path: &str) -> Result<ShardSet, FormatError> {
    let found = pickle::read_below(path, rel_path)?;
    Ok(ShardSet { format: found.format, files: found.files, tensors: found.tensors, metadata: BTreeMap::new() })
}

fn plain(path: &Path, rel_path: &str) -> Result<ShardSet, FormatError> {
    let header = safetensors::read(path, rel_path)?;
    Ok(ShardSet {
        format: Format::Safetensors,
        files: vec![header.file],
        tensors: header.tensors,
        metadata: header.metadata,
    })
}

/// What the index says its tensors have in bytes.
pub(crate) fn total_size(document: &Value) -> Option<u64> {
    let total = document.get("metadata")?.get("total_size")?;
    // some writers count in floats
    total.as_u64().or_else(|| {
        total.as_f64().filter(|total| total.fract() == 0.0 && (0.0..9e15).contains(total)).map(|total| total as u64)
    })
}

/// Reads the index alone.
pub(crate) fn document(path: &Path, rel_path: &str) -> Result<Value, FormatError> {
    read_json(path, rel_path, "shard index", INDEX_LIMIT_BYTES).map(|(document, _)| document)
}

/// Tensor to shard, with every shard a plain file name.
fn weight_map<'d>(path: &Path, document: &'d Value) -> Result<BTreeMap<&'d str, &'d str>, FormatError> {
    let map = document.get("weight_map").and_then(Value::as_object);
    let map = map.filter(|map| !map.is_empty()).ok_or_else(|| shards_error(path, ShardProblem::Empty))?;
    map.iter()
        .map(|(tensor, shard)| {
            let name = shard.as_str().unwrap_or_default();
            if is_plain_name(name) && ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                Ok((tensor.as_str(), name))
            } else {
                Err(FormatError::UnsafeName { path: path.to_owned(), name: name.to_owned() })
            }
        })
        .collect()
}

/// Whether `name` can only mean an entry of the folder it is joined to.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Numbered shards must all be named: a lost line would otherwise look like a smaller model.
fn complete(path: &Path, shards: &BTreeSet<&str>) -> Result<(), FormatError> {
    let totals: BTreeSet<u64> = shards.iter().filter_map(|shard| shard_number(shard)).map(|(_, total)| total).collect();
    let found = u64::try_from(shards.len()).unwrap_or(u64::MAX);
    match totals.first() {
        Some(expected) if *expected != found => {
            Err(shards_error(path, ShardProblem::Incomplete { expected: *expected, found }))
        }
        _ => Ok(()),
    }
}

fn shards_error(path: &Path, problem: ShardProblem) -> FormatError {
    FormatError::Shards { path: path.to_owned(), problem }
}
