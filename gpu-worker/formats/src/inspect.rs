//! Inspecting one path: a single file, the index of a sharded file, or a diffusers folder.

use std::{collections::BTreeMap, path::Path};

use serde_json::Map;

use crate::{
    correction::Correction,
    diffusers::{self, index},
    error::{ErrorKind, FormatError},
    gguf,
    inspection::{Evidence, FileFacts, Inspection},
    onnx, pickle,
    probe::{Probe, sniff},
    recognise::{Source, recognised},
    safetensors,
    vocab::{Base, Format, ModelType},
};

/// Largest config that is read beside a component.
pub(crate) const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

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
    inspect_opened(path, open(path)?, &correction, Extent::Read)
}

/// [`inspect_as`] that looks at the headers of a folder's other variants too: for lists and checks, as they are many and of no use for
/// what is read.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_all(path: &Path, correction: &Correction) -> Result<Inspection, FormatError> {
    inspect_opened(path, open(path)?, correction, Extent::AllVariants)
}

/// Which weights of a folder are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Those that are read.
    Read,
    /// Those of its other variants too.
    AllVariants,
}

/// [`inspect_as`] of what is open already.
pub(crate) fn inspect_opened(
    path: &Path,
    opened: Opened,
    correction: &Correction,
    extent: Extent,
) -> Result<Inspection, FormatError> {
    match opened {
        Opened::Folder => diffusers::inspect(path, correction, extent),
        Opened::Index => sharded(path, correction),
        Opened::File(probe, format) => file(path, probe, format, correction),
    }
}

/// What is at a path, before anything is parsed.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A folder.
    Folder,
    /// The index of a sharded file.
    Index,
    /// A file, and what its first bytes say that it is.
    File(Probe, Format),
}

/// Opens what is at `path`.
pub(crate) fn open(path: &Path) -> Result<Opened, FormatError> {
    let meta = std::fs::metadata(path).map_err(|source| FormatError::io(path, "reading its status", source))?;
    if meta.is_dir() {
        return Ok(Opened::Folder);
    }
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    if index::parse_name(&file_name).is_some() {
        return Ok(Opened::Index);
    }
    let probe = Probe::open(path, "")?;
    let format = sniff(&probe.head()?, &extension(path));
    Ok(Opened::File(probe, format))
}

fn file(path: &Path, probe: Probe, format: Format, correction: &Correction) -> Result<Inspection, FormatError> {
    let extension = extension(path);
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
    correction: &Correction,
) -> Result<Inspection, FormatError> {
    match header {
        Ok(header) => {
            let format = Format::Safetensors;
            let source = Source { path, format, files: vec![header.file], metadata: &header.metadata };
            Ok(recognised(source, header.tensors, correction))
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
    correction: &Correction,
) -> Result<Inspection, FormatError> {
    let found = match read {
        Ok(found) => found,
        Err(error) => return refused(path, format, vec![facts], error),
    };
    let none = BTreeMap::new();
    let source = Source { path, format: found.format, files: found.files, metadata: &none };
    let mut inspection = recognised(source, found.tensors, correction);
    if !found.extra.nested.is_empty() {
        inspection.evidence.push(Evidence::new("pickle.nested", "weights", found.extra.nested.join(".")));
    }
    inspection.metadata.insert("pickle".to_owned(), found.extra.to_json());
    Ok(inspection)
}

fn sharded(path: &Path, correction: &Correction) -> Result<Inspection, FormatError> {
    match index::read(path, "", "") {
        Ok(set) => {
            let source = Source { path, format: set.format, files: set.files, metadata: &set.metadata };
            Ok(recognised(source, set.tensors, correction))
        }
        Err(error) => refused(path, Format::Safetensors, vec![crate::probe::stat(path, "")?], error),
    }
}

/// An error of content is an answer; an error of access is not.
pub(crate) fn refused<C>(
    path: &Path,
    format: Format,
    files: Vec<FileFacts>,
    error: FormatError,
) -> Result<Inspection<C>, FormatError> {
    let known = |format| if format == Format::Unknown { Format::Safetensors } else { format };
    match error.kind() {
        ErrorKind::Missing | ErrorKind::Unreadable => Err(error),
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Unsafe | ErrorKind::UnsafeFormat => {
            let mut inspection = unknown(path, known(format), files);
            inspection.refuse(&error);
            Ok(inspection)
        }
    }
}

/// A listing that says nothing yet but where the files are.
pub(crate) fn unknown<C>(path: &Path, format: Format, files: Vec<FileFacts>) -> Inspection<C> {
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
pub(crate) const GENERIC_STEMS: &[&str] =
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
