//! GGUF: the header, its key-values and the tensor list. The weights are inspected, not loaded.

mod read;
#[cfg(test)]
mod tests;
mod types;

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

pub use read::read;
pub use types::GgmlType;

use crate::{
    detect::{Hints, detect},
    dtype::Dtype,
    error::FormatError,
    inspect::unknown,
    inspection::{Evidence, FileFacts, Inspection, TensorFacts},
    keys::Keys,
    text::{shown, storable_json},
    vocab::Format,
};

/// Most tensors that are listed with the model; the facts count all.
const LISTED: usize = 4_000;

/// A tensor as the file lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Name.
    pub name: String,
    /// Shape, slowest dimension first (the file stores it the other way round).
    pub shape: Vec<u64>,
    /// Element type.
    pub kind: GgmlType,
    /// First byte in the file.
    pub begin: u64,
    /// One past the last byte in the file.
    pub end: u64,
}

/// What a GGUF file says about itself.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The file.
    pub file: FileFacts,
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Key-values; of arrays only the element type and the length.
    pub values: Map<String, Value>,
    /// Tensors in the file's order.
    pub tensors: Vec<GgufTensor>,
}

/// Inspects the GGUF file at `path`: what its tensors are, without components, as nothing loads them.
///
/// # Errors
/// [`FormatError`] when it is unreadable or contradicts the format.
pub fn inspect(path: &Path) -> Result<Inspection, FormatError> {
    let gguf = read(path, "")?;
    let tensors: Vec<TensorFacts> = gguf.tensors.iter().map(facts).collect();
    let verdict = detect(&Keys::new(&tensors), &Hints::default());
    let mut inspection = unknown(path, Format::Gguf, vec![gguf.file.clone()]);
    inspection.model_type = verdict.model_type;
    inspection.base = verdict.base;
    inspection.prediction = verdict.prediction;
    inspection.evidence = verdict.evidence;
    inspection.evidence.push(Evidence::new("gguf.version", "header", gguf.version));
    let kept = "its weights are listed, but GGUF weights are not loaded";
    inspection.reason = Some(verdict.reason.map_or_else(|| kept.to_owned(), |reason| format!("{reason}; {kept}")));
    let types = type_counts(&gguf.tensors);
    inspection.variant = types.iter().max_by_key(|(_, count)| **count).map(|(name, _)| name.to_lowercase());
    let mut facts = verdict.facts;
    facts.insert("tensors".to_owned(), json!(gguf.tensors.len()));
    facts.insert("tensor_types".to_owned(), json!(types));
    inspection.metadata.insert("gguf".to_owned(), storable_json(Value::Object(gguf.values)));
    inspection.metadata.insert("gguf_tensors".to_owned(), storable_json(listed(&gguf.tensors)));
    inspection.metadata.insert("facts".to_owned(), storable_json(Value::Object(facts)));
    Ok(inspection)
}

/// The tensor list, as far as it is shown.
fn listed(tensors: &[GgufTensor]) -> Value {
    let entry =
        |tensor: &GgufTensor| json!({ "name": shown(&tensor.name), "type": tensor.kind.name, "shape": tensor.shape });
    tensors.iter().take(LISTED).map(entry).collect()
}

/// Names and shapes for the detection rules. A block type has no element type of ours: its bytes stand for it.
fn facts(tensor: &GgufTensor) -> TensorFacts {
    TensorFacts {
        name: tensor.name.clone(),
        dtype: tensor.kind.dtype.unwrap_or(Dtype::U8),
        shape: tensor.shape.clone(),
        file: 0,
        begin: tensor.begin,
        end: tensor.end,
        strides: None,
    }
}

fn type_counts(tensors: &[GgufTensor]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for tensor in tensors {
        let count: &mut usize = counts.entry(tensor.kind.name).or_default();
        *count = count.saturating_add(1);
    }
    counts
}
