//! Inspecting one path: a single file, the index of a sharded file, or a diffusers folder.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    components::{split, variant},
    correction::Correction,
    detect::{Hints, detect},
    diffusers::{self, index},
    error::{ErrorKind, FormatError},
    gguf,
    inspection::{Evidence, FileFacts, Inspection, TensorFacts},
    keys::Keys,
    onnx, pickle,
    probe::{Probe, read_json, sniff},
    safetensors,
    text::storable,
    vocab::{Base, Format, ModelType},
};

/// Largest config that is read beside a component.
pub(crate) const CONFIG_LIMIT_BYTES: u64 = 1 << 20;
/// Longest metadata value that is kept, and the most that is kept of one file in all.
const METADATA_VALUE_BYTES: usize = 256 << 10;
const METADATA_TOTAL_BYTES: usize = 1 << 20;

/// What is at `path` (a file or a folder). Reads headers and configs only.
///
/// Whatever can be read is answered: a corrupt or foreign file is of type `unknown` with a reason and
/// no components.
///
/// # Errors
/// [`FormatError`] of kind `Missing`, `Unreadable` or `Unsafe`, when it cannot be read at all.
pub fn inspect(path: &Path) -> Result<Inspection, FormatError> {
    inspect_as(path, Correction::default())
}

/// [`inspect`] of a model of which somebody knows better what it is: its tensors are cut into components, and brought to
/// canonical form, as the correction says.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_as(path: &Path, correction: Correction) -> Result<Inspection, FormatError> {
    let meta = std::fs::metadata(path).map_err(|source| FormatError::io(path, "reading its status", source))?;
    if meta.is_dir() {
        return diffusers::inspect(path, correction);
    }
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    if index::parse_name(&file_name).is_some() {
        return sharded(path, correction);
    }
    let probe = Probe::open(path, "")?;
    let extension = extension(path);
    let format = sniff(&probe.head()?, &extension);
    let facts = probe.facts.clone();
    let is_checkpoint = matches!(extension.as_str(), "ckpt" | "pt" | "pth");
    if matches!(format, Format::TorchZip | Format::Pickle) || (format == Format::Unknown && is_checkpoint) {
        let format = if format == Format::TorchZip { format } else { Format::Pickle };
        return checkpoint(path, format, facts, pickle::read_open(probe), correction);
    }
    if format == Format::Safetensors || matches!(extension.as_str(), "safetensors" | "sft") {
        return single(path, format, facts, safetensors::read_open(probe), correction);
    }
    let other = match format {
        Format::Gguf => Some(gguf::inspect(path)),
        Format::Onnx => Some(onnx::inspect(path)),
        _ => None,
    };
    if let Some(read) = other {
        return read.or_else(|error| refused(path, format, vec![facts], error));
    }
    let mut inspection = unknown(path, format, vec![facts]);
    inspection.reason = Some(not_read(format));
    inspection.evidence.push(Evidence::new("file.magic", &extension, format.as_str()));
    Ok(inspection)
}

/// The lower-case extension.
pub(crate) fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

fn single(
    path: &Path,
    format: Format,
    facts: FileFacts,
    header: Result<safetensors::Header, FormatError>,
    correction: Correction,
) -> Result<Inspection, FormatError> {
    match header {
        Ok(header) => {
            let read = (vec![header.file], header.tensors, &header.metadata);
            Ok(recognised(path, Format::Safetensors, read, correction))
        }
        Err(error) => refused(path, format, vec![facts], error),
    }
}

/// A PyTorch checkpoint: the same rules over its tensors, and what else was in it under `pickle`.
fn checkpoint(
    path: &Path,
    format: Format,
    facts: FileFacts,
    read: Result<pickle::PickleFile, FormatError>,
    correction: Correction,
) -> Result<Inspection, FormatError> {
    let found = match read {
        Ok(found) => found,
        Err(error) => return refused(path, format, vec![facts], error),
    };
    let mut inspection = recognised(path, found.format, (found.files, found.tensors, &BTreeMap::new()), correction);
    if !found.extra.nested.is_empty() {
        inspection.evidence.push(Evidence::new("pickle.nested", "weights", found.extra.nested.join(".")));
    }
    inspection.metadata.insert("pickle".to_owned(), found.extra.to_json());
    Ok(inspection)
}

fn sharded(path: &Path, correction: Correction) -> Result<Inspection, FormatError> {
    match index::read(path, "", "") {
        Ok(set) => Ok(recognised(path, set.format, (set.files, set.tensors, &set.metadata), correction)),
        Err(error) => refused(path, Format::Safetensors, vec![crate::probe::stat(path, "")?], error),
    }
}

/// An error of content is an answer; an error of access is not.
fn refused(path: &Path, format: Format, files: Vec<FileFacts>, error: FormatError) -> Result<Inspection, FormatError> {
    let known = |format| if format == Format::Unknown { Format::Safetensors } else { format };
    match error.kind() {
        ErrorKind::Missing | ErrorKind::Unreadable => Err(error),
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Unsafe | ErrorKind::UnsafeFormat => {
            let mut inspection = unknown(path, known(format), files);
            inspection.evidence.push(Evidence::new("file.refused", error.code(), inspection.format.as_str()));
            inspection.reason = Some(error.full_text());
            Ok(inspection)
        }
    }
}

/// What was read of files: themselves, their tensors, their own metadata.
type Read<'r> = (Vec<FileFacts>, Vec<TensorFacts>, &'r BTreeMap<String, String>);

fn recognised(path: &Path, format: Format, (files, tensors, metadata): Read<'_>, correction: Correction) -> Inspection {
    let config = config_beside(path);
    let hints = Hints { metadata: Some(metadata), config: config.as_ref() };
    let verdict = detect(&Keys::new(&tensors), &hints);
    let tensor_count = tensors.len();
    let (model_type, base) = correction.of(verdict.model_type, verdict.base);
    let split = split(model_type, base, tensors);
    let mut facts = verdict.facts;
    facts.insert("tensors".to_owned(), json!(tensor_count));
    facts.insert("ignored_tensors".to_owned(), json!(split.ignored_tensors));
    facts.insert("ignored_bytes".to_owned(), json!(split.ignored_bytes));
    let mut inspection = unknown(path, format, files);
    inspection.metadata = own_metadata(metadata, &mut facts);
    inspection.metadata.insert("facts".to_owned(), Value::Object(facts));
    (inspection.model_type, inspection.base) = (verdict.model_type, verdict.base);
    inspection.correct(correction);
    inspection.prediction = verdict.prediction;
    inspection.reason = verdict.reason;
    inspection.evidence = verdict.evidence;
    inspection.variant = variant(&split.components);
    inspection.components = split.components;
    inspection
}

/// `config.json` beside a file that has a component's usual name.
fn config_beside(path: &Path) -> Option<Value> {
    let stem = path.file_name()?.to_str()?;
    let is_component = GENERIC_STEMS.iter().any(|generic| stem.starts_with(generic));
    let config = path.parent()?.join("config.json");
    // an unreadable or broken config beside a bare file only leaves the base open, as without one
    let read = is_component.then(|| read_json(&config, "config.json", "config", CONFIG_LIMIT_BYTES))?;
    read.ok().map(|(config, _)| config)
}

/// The file's metadata, bounded; what is left out is counted in the facts.
fn own_metadata(metadata: &BTreeMap<String, String>, facts: &mut Map<String, Value>) -> Map<String, Value> {
    let mut kept = Map::new();
    let (mut total, mut omitted) = (0usize, Vec::new());
    for (key, value) in metadata {
        let size = key.len().saturating_add(value.len());
        let next = total.saturating_add(size);
        if size > METADATA_VALUE_BYTES || next > METADATA_TOTAL_BYTES {
            omitted.push(json!({ "key": storable(&crate::text::shown(key)), "bytes": size }));
            continue;
        }
        total = next;
        kept.insert(storable(key), Value::String(storable(value)));
    }
    if !omitted.is_empty() {
        omitted.truncate(64);
        facts.insert("omitted_metadata".to_owned(), Value::Array(omitted));
    }
    kept
}

/// A listing that says nothing yet but where the files are.
pub(crate) fn unknown(path: &Path, format: Format, files: Vec<FileFacts>) -> Inspection {
    Inspection {
        name: display_name(path),
        model_type: ModelType::Unknown,
        base: Base::Unknown,
        corrected: None,
        format,
        variant: None,
        prediction: None,
        reason: None,
        evidence: Vec::new(),
        metadata: Map::new(),
        size_bytes: files.iter().map(|file| file.size).fold(0, u64::saturating_add),
        files,
        components: Vec::new(),
    }
}

fn not_read(format: Format) -> String {
    match format {
        Format::LfsPointer | Format::Html => format!("not a model but {}", format.description()),
        Format::Unknown => "not read: a file of an unknown format".to_owned(),
        _ => format!("not read yet: {} is not supported by this version", format.description()),
    }
}

/// File names that every repository uses; the folder names the model then.
const GENERIC_STEMS: &[&str] =
    &["diffusion_pytorch_model", "model", "pytorch_lora_weights", "adapter_model", "pytorch_model"];

/// The name to show: the file's stem, or the folder's name for folders and generic file names.
fn display_name(path: &Path) -> String {
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if path.is_dir() {
        return absolute_name(path).unwrap_or(file_name);
    }
    let stem = index::parse_name(&file_name).map_or_else(
        || path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        |(stem, _)| stem.to_owned(),
    );
    let generic = GENERIC_STEMS.iter().any(|generic| {
        stem.strip_prefix(generic).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('-'))
    });
    let folder = path.parent().and_then(absolute_name).filter(|_| generic);
    folder.unwrap_or(stem)
}

fn absolute_name(folder: &Path) -> Option<String> {
    let absolute = std::path::absolute(folder).ok()?;
    absolute.file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
