//! The strict, bounded reader of safetensors headers.
//!
//! Stricter than the reference reader where that one lets two readers disagree about a file:
//! duplicate tensor names, duplicate metadata keys, unknown or repeated fields in an entry, an entry
//! written as an array, `__metadata__: null`, a header that does not begin with `{`, and more than
//! 64 dimensions (the most PyTorch has) are errors here.

mod check;
mod parse;
mod section;

use std::{collections::BTreeMap, path::Path};

use crate::{
    error::FormatError,
    inspection::{FileFacts, TensorFacts},
    probe::{Probe, sniff},
    vocab::Format,
};
pub(crate) use section::{Section, SectionKey};

/// The largest header the format allows, in bytes (not MiB: the reference's own number).
pub const HEADER_LIMIT_BYTES: u64 = 100_000_000;
/// Bytes of the length that precedes the header.
const LENGTH_BYTES: u64 = 8;

/// A file's header: its tensors in data order and its own metadata.
#[derive(Debug, Clone)]
pub struct Header {
    /// The file as it was while its header was read.
    pub file: FileFacts,
    /// Tensors sorted by offset, with absolute offsets; each `file` is 0.
    pub tensors: Vec<TensorFacts>,
    /// `__metadata__`, string to string.
    pub metadata: BTreeMap<String, String>,
    /// Absolute offset of the first data byte.
    pub data_begin: u64,
}

/// Reads and checks the header of the file at `path`; `rel_path` is copied into the facts.
///
/// # Errors
/// [`FormatError`] that names the file, the tensor and what was expected.
pub fn read(path: &Path, rel_path: &str) -> Result<Header, FormatError> {
    read_open(Probe::open(path, rel_path)?)
}

/// [`read`] for a file that is already open.
pub(crate) fn read_open(probe: Probe) -> Result<Header, FormatError> {
    let mut buffer = Vec::new();
    let text = text(&probe, &mut buffer)?;
    check(probe.facts, &text)
}

/// A header's bytes as they are in the file, not parsed.
#[derive(Debug)]
pub(crate) struct Text<'b> {
    /// The JSON.
    pub(crate) bytes: &'b [u8],
    /// Absolute offset of the first data byte.
    data_begin: u64,
    /// Bytes of data behind the header.
    pub(crate) data_bytes: u64,
}

/// Reads the header's bytes into `buffer`, which only ever grows.
pub(crate) fn text<'b>(probe: &Probe, buffer: &'b mut Vec<u8>) -> Result<Text<'b>, FormatError> {
    let path = &probe.facts.path;
    let declared = header_length(probe)?;
    let length = usize::try_from(declared).map_err(|_| too_large(path, declared))?;
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let bytes = buffer.get_mut(..length).unwrap_or_default();
    probe.read_at(bytes, LENGTH_BYTES)?;
    probe.check_unchanged()?;
    let data_begin = LENGTH_BYTES.saturating_add(declared);
    Ok(Text { bytes, data_begin, data_bytes: probe.facts.size.saturating_sub(data_begin) })
}

/// Parses and checks the header of the file that `facts` describe.
pub(crate) fn check(facts: FileFacts, text: &Text<'_>) -> Result<Header, FormatError> {
    let raw = parse::parse(&facts.path, text.bytes)?;
    let tensors = check::tile(&facts.path, raw.tensors, text.data_begin, text.data_bytes)?;
    Ok(Header { file: facts, tensors, metadata: raw.metadata, data_begin: text.data_begin })
}

/// The declared header length, once it is known to fit the limit and the file.
fn header_length(probe: &Probe) -> Result<u64, FormatError> {
    let (path, size) = (&probe.facts.path, probe.facts.size);
    let found = sniff(&probe.head()?, "");
    let or_named = |error| match found {
        Format::Safetensors | Format::Unknown => error,
        found => FormatError::WrongFormat { path: path.clone(), found },
    };
    if size < LENGTH_BYTES {
        return Err(or_named(FormatError::TooShort { path: path.clone(), size }));
    }
    let mut length = [0; 8];
    probe.read_at(&mut length, 0)?;
    let declared = u64::from_le_bytes(length);
    if declared > HEADER_LIMIT_BYTES {
        return Err(or_named(too_large(path, declared)));
    }
    if declared > size - LENGTH_BYTES {
        return Err(or_named(FormatError::HeaderTruncated { path: path.clone(), declared, size }));
    }
    Ok(declared)
}

fn too_large(path: &Path, declared: u64) -> FormatError {
    FormatError::HeaderTooLarge { path: path.to_owned(), declared, limit: HEADER_LIMIT_BYTES }
}

#[cfg(test)]
mod tests;
