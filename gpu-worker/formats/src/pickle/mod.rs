//! PyTorch checkpoints (zip archives and legacy streams), read without executing anything.
//!
//! The pickle inside is interpreted by a machine that imports nothing and calls nothing: it knows the few
//! functions that rebuild tensors by name and computes what they would give. Every other callee is refused
//! with its name. Only headers are read: a tensor is where its bytes are.

mod globals;
mod legacy;
mod machine;
mod opcodes;
mod rebuild;
mod source;
mod storage;
mod value;
mod weights;
mod zip;

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    error::FormatError,
    inspection::{FileFacts, TensorFacts},
    probe::Probe,
    text::{shown, storable},
    vocab::Format,
};

/// A checkpoint's weights and what else was in it.
#[derive(Debug, Clone)]
pub struct PickleFile {
    /// `TorchZip`, or `Pickle` for a legacy stream.
    pub format: Format,
    /// The file, as the only element.
    pub files: Vec<FileFacts>,
    /// The weights, by name; several may share bytes.
    pub tensors: Vec<TensorFacts>,
    /// What was around them.
    pub extra: PickleExtra,
}

/// What a checkpoint holds beside its weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PickleExtra {
    /// The keys that lead from the top to the weights (`state_dict`, …); empty when the top holds them.
    pub nested: Vec<String>,
    /// Other keys of the top, at most 64: optimizer states, callbacks, counters.
    pub ignored: Vec<String>,
    /// Entries beside the weights that are no tensors with a text as name.
    pub ignored_entries: u64,
    /// Whether averaged weights are in the file.
    pub has_ema: bool,
    /// Whether every name had the prefix `module.`, which is taken off.
    pub stripped_module: bool,
    /// Globals that are named but never called, at most 64.
    pub globals: Vec<String>,
}

impl PickleExtra {
    /// The facts as JSON that a database can store.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let safe = |texts: &[String]| texts.iter().map(|text| storable(&shown(text))).collect::<Vec<_>>();
        json!({
            "nested": safe(&self.nested),
            "ignored": safe(&self.ignored),
            "ignored_entries": self.ignored_entries,
            "ema": self.has_ema,
            "stripped_module": self.stripped_module,
            "globals": safe(&self.globals),
        })
    }
}

/// Reads the checkpoint at `path`: its container, its pickle, and where every tensor's bytes are.
///
/// # Errors
/// [`FormatError`]: of kind `UnsafeFormat` with the offending global or opcode and its offset when loading
/// the file would run code; `Corrupt` when it contradicts itself; `Unsupported` for TorchScript's
/// relatives, tar archives and big-endian files.
pub fn read(path: &Path) -> Result<PickleFile, FormatError> {
    read_open(Probe::open(path, "")?)
}

/// [`read`] for a file of a folder; `rel_path` is copied into the facts.
pub(crate) fn read_below(path: &Path, rel_path: &str) -> Result<PickleFile, FormatError> {
    read_open(Probe::open(path, rel_path)?)
}

/// [`read`] for a file that is already open.
pub(crate) fn read_open(probe: Probe) -> Result<PickleFile, FormatError> {
    let head = probe.head()?;
    let is_zip = head.starts_with(b"PK");
    let found = if is_zip {
        zip::read(&probe)?
    } else {
        refuse_tar(&probe)?;
        legacy::read(&probe)?
    };
    probe.check_unchanged()?;
    let format = if is_zip { Format::TorchZip } else { Format::Pickle };
    Ok(PickleFile { format, tensors: found.tensors, extra: found.extra, files: vec![probe.facts] })
}

/// Tar archives say so behind the first member's header.
fn refuse_tar(probe: &Probe) -> Result<(), FormatError> {
    let mut magic = [0; 5];
    if probe.facts.size < 512 {
        return Ok(());
    }
    probe.read_at(&mut magic, 257)?;
    if &magic != b"ustar" {
        return Ok(());
    }
    let what = "a tar archive, as PyTorch wrote them before its version 0.2".to_owned();
    Err(FormatError::NotHandled { path: probe.facts.path.clone(), what })
}

#[cfg(test)]
mod tests;
