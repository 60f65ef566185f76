//! From the tensors and the metadata of a file to the answer of an inspection.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    components::{split, variant},
    correction::Correction,
    detect::{Hints, Verdict, detect},
    inspect::{CONFIG_LIMIT_BYTES, GENERIC_STEMS, unknown},
    inspection::{Component, ComponentSummary, FileFacts, Inspection, TensorFacts},
    keys::Keys,
    probe::read_json,
    text::{shown, storable},
    vocab::{Base, Format, ModelType},
};

/// Longest metadata value that is kept, and the most that is kept of one file in all.
const METADATA_VALUE_BYTES: usize = 256 << 10;
const METADATA_TOTAL_BYTES: usize = 1 << 20;

/// Where diffusers writes how an adapter's factors are scaled.
pub const ADAPTER_METADATA_KEY: &str = "lora_adapter_metadata";

/// What was read, apart from the tensors.
#[derive(Debug)]
pub(crate) struct Source<'s> {
    /// The path that is inspected.
    pub(crate) path: &'s Path,
    /// How the bytes are stored.
    pub(crate) format: Format,
    /// The files.
    pub(crate) files: Vec<FileFacts>,
    /// Their own metadata.
    pub(crate) metadata: &'s BTreeMap<String, String>,
}

/// A model's tensors in its components.
#[derive(Debug, Clone)]
pub(crate) struct Cut<C> {
    /// The components.
    pub(crate) components: Vec<C>,
    /// Dtype of all of them.
    variant: Option<String>,
    /// Tensors in the file.
    tensors: usize,
    /// Tensors of no component, and their bytes.
    ignored: (usize, u64),
}

impl Cut<Component> {
    /// Cuts the tensors of a model of this type and family.
    pub(crate) fn of((model_type, base): (ModelType, Base), tensors: Vec<TensorFacts>) -> Self {
        let count = tensors.len();
        let split = split(model_type, base, tensors);
        Self {
            variant: variant(&split.components),
            components: split.components,
            tensors: count,
            ignored: (split.ignored_tensors, split.ignored_bytes),
        }
    }

    /// The same without the tensors.
    pub(crate) fn summary(self) -> Cut<ComponentSummary> {
        let components = self.components.iter().map(Component::summary).collect();
        Cut { components, variant: self.variant, tensors: self.tensors, ignored: self.ignored }
    }
}

/// The answer from all that was read.
pub(crate) fn recognised(source: Source<'_>, tensors: Vec<TensorFacts>, correction: &Correction) -> Inspection {
    let config = config_beside(source.path);
    let hints = Hints { metadata: Some(source.metadata), config: config.as_ref() };
    let verdict = detect(&Keys::new(&tensors), &hints);
    let cut = Cut::of(correction.of(verdict.model_type, verdict.base), tensors);
    answer(source, verdict, cut, correction)
}

/// The answer from the verdict and the cut that follows from it.
pub(crate) fn answer<C>(source: Source<'_>, verdict: Verdict, cut: Cut<C>, correction: &Correction) -> Inspection<C> {
    let mut facts = verdict.facts;
    facts.insert("tensors".to_owned(), json!(cut.tensors));
    facts.insert("ignored_tensors".to_owned(), json!(cut.ignored.0));
    facts.insert("ignored_bytes".to_owned(), json!(cut.ignored.1));
    let mut inspection = unknown(source.path, source.format, source.files);
    inspection.metadata = own_metadata(source.metadata, &mut facts);
    inspection.metadata.insert("facts".to_owned(), Value::Object(facts));
    (inspection.model_type, inspection.base) = (verdict.model_type, verdict.base);
    inspection.correct(correction);
    inspection.prediction = verdict.prediction;
    inspection.reason = verdict.reason;
    inspection.evidence = verdict.evidence;
    inspection.variant = cut.variant;
    inspection.components = cut.components;
    inspection
}

/// `config.json` beside a file that has a component's usual name.
pub(crate) fn config_beside(path: &Path) -> Option<Value> {
    let stem = path.file_name()?.to_str()?;
    let is_component = GENERIC_STEMS.iter().any(|generic| stem.starts_with(generic));
    let config = path.parent()?.join("config.json");
    if leads_elsewhere(&config, path) {
        return None;
    }
    // an unreadable or broken config beside a bare file only leaves the base open, as without one
    let read = is_component.then(|| read_json(&config, "config.json", "config", CONFIG_LIMIT_BYTES))?;
    read.ok().map(|(config, _)| config)
}

/// Whether it is a link to a folder that has neither the model's entry nor its bytes: a walk looks where models lead, not what lies beside them.
fn leads_elsewhere(config: &Path, model: &Path) -> bool {
    let is_link = std::fs::symlink_metadata(config).is_ok_and(|meta| meta.file_type().is_symlink());
    let folder = |path: &Path| path.canonicalize().ok()?.parent().map(Path::to_path_buf);
    let entry = || model.parent()?.canonicalize().ok();
    is_link
        && folder(config).is_none_or(|found| Some(&found) != entry().as_ref() && Some(&found) != folder(model).as_ref())
}

/// The file's metadata, bounded; what is left out is counted in the facts.
fn own_metadata(metadata: &BTreeMap<String, String>, facts: &mut Map<String, Value>) -> Map<String, Value> {
    let mut kept = Map::new();
    let (mut total, mut omitted) = (0usize, Vec::new());
    // first what weights cannot be used without, whatever else there is
    let (needed, rest): (Vec<_>, Vec<_>) = metadata.iter().partition(|(key, _)| *key == ADAPTER_METADATA_KEY);
    for (key, value) in needed.into_iter().chain(rest) {
        let size = key.len().saturating_add(value.len());
        let next = total.saturating_add(size);
        if size > METADATA_VALUE_BYTES || next > METADATA_TOTAL_BYTES {
            omitted.push(json!({ "key": storable(&shown(key)), "bytes": size }));
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
