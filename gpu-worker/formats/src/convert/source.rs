//! A model that is converted, or that gives a part: what an inspection says, and every tensor of its files, also those of no part.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::ConvertError;
use crate::{
    diffusers::index,
    inspection::{FileFacts, Inspection, TensorFacts},
    pickle,
    probe::Probe,
    safetensors,
    vocab::{Base, ComponentKind, Format},
};

/// A model with all its tensors.
#[derive(Debug)]
pub struct Model {
    /// What it is.
    pub inspection: Inspection,
    /// Every tensor; of folders, those of the parts.
    pub(super) tensors: Vec<TensorFacts>,
    /// The metadata of a single file.
    pub(super) metadata: BTreeMap<String, String>,
    said: Said,
}

/// What the operator says of a model; goes before what its files say.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Configs by component.
    pub configs: Map<String, Value>,
    /// How it predicts.
    pub prediction: Option<String>,
}

impl Model {
    /// Reads the headers at `path` once more, of which `inspection` is the answer.
    ///
    /// # Errors
    /// [`ConvertError::Layout`] for formats that cannot be converted, [`ConvertError::Format`] when a file cannot be read or is no
    /// longer the one that was inspected.
    pub fn open(path: &Path, inspection: Inspection) -> Result<Self, ConvertError> {
        let of_parts = || inspection.components.iter().flat_map(|part| part.tensors.iter().cloned()).collect();
        let (tensors, metadata, files) = match inspection.format {
            Format::Safetensors if is_index(path) => {
                let set = index::read(path, "", "")?;
                (set.tensors, set.metadata, set.files)
            }
            Format::Safetensors => {
                let header = safetensors::read(path, "")?;
                (header.tensors, header.metadata, vec![header.file])
            }
            Format::TorchZip | Format::Pickle if !is_index(path) => {
                let read = pickle::read(path)?;
                (read.tensors, BTreeMap::new(), read.files)
            }
            Format::Diffusers | Format::Component => (of_parts(), BTreeMap::new(), Vec::new()),
            other => {
                return Err(ConvertError::Layout { layout: "anything else", why: format!("it is stored as {other}") });
            }
        };
        for file in &files {
            must_be_seen(file, &inspection.files)?;
        }
        Ok(Self { inspection, tensors, metadata, said: Said::default() })
    }

    /// With what the operator says of it.
    #[must_use]
    pub fn with(mut self, said: Said) -> Self {
        self.said = said;
        self
    }

    /// A component's config, as the operator says it, else as the folder has it; none of a single file.
    pub(super) fn config(&self, kind: ComponentKind) -> Option<&Value> {
        self.said.configs.get(kind.as_str()).or_else(|| self.inspection.config(kind.as_str()))
    }

    /// How it was told to predict, by the operator alone.
    pub(super) fn said_prediction(&self) -> Option<&str> {
        self.said.prediction.as_deref()
    }

    /// How it predicts: as the operator or its files say, else as its family does.
    pub(super) fn prediction(&self) -> &str {
        let told = self.said_prediction().or(self.inspection.prediction.as_deref());
        told.unwrap_or(if self.inspection.base == Base::Sd21 { "v_prediction" } else { "epsilon" })
    }

    /// Opens its files, which must be those that were inspected.
    pub(super) fn probes(files: &[FileFacts]) -> Result<Vec<Probe>, ConvertError> {
        let open = |file: &FileFacts| {
            let probe = Probe::open(&file.path, &file.rel_path)?;
            probe.must_be(file)?;
            Ok(probe)
        };
        files.iter().map(open).collect()
    }
}

fn is_index(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| index::parse_name(name).is_some())
}

fn must_be_seen(file: &FileFacts, seen: &[FileFacts]) -> Result<(), ConvertError> {
    let known = seen.iter().find(|seen| seen.path == file.path);
    let is_same = known.is_some_and(|seen| {
        (seen.size, seen.mtime_ns, seen.inode, seen.dev) == (file.size, file.mtime_ns, file.inode, file.dev)
    });
    if is_same { Ok(()) } else { Err(crate::error::FormatError::Changed { path: file.path.clone() }.into()) }
}
