//! ONNX models: what the graph computes and where its weights are. Nothing is run, and files beside
//! the model are reached by plain names only.

mod detach;
mod external;
mod graph;
mod tensor;
#[cfg(test)]
mod tests;
mod uses;
mod wire;

use std::path::Path;

use serde_json::json;

pub use detach::{Detached, DetachedWeight, detach};
pub use graph::{Graph, Port};

use crate::{
    components::component,
    cursor::Cursor,
    error::FormatError,
    inspect::unknown,
    inspection::{Evidence, FileFacts, Inspection, TensorFacts},
    probe::Probe,
    text::storable_json,
    vocab::{ComponentKind, Format, ModelType},
};

/// The file of a pipeline's part that is an ONNX graph.
pub(crate) const GRAPH_FILE: &str = "model.onnx";
/// All text that is kept of one file.
const TEXT_TOTAL_BYTES: u64 = 64 << 20;

/// An ONNX model: its graph and its weights.
#[derive(Debug, Clone)]
pub struct Onnx {
    /// What the graph says.
    pub graph: Graph,
    /// The model's file first, then the files that hold weights.
    pub files: Vec<FileFacts>,
    /// Weights that are ranges of these files.
    pub tensors: Vec<TensorFacts>,
    /// Weights that are not: numbers listed in the graph, element types that are not loaded.
    pub without_range: usize,
}

/// Reads the model at `path`. `rel_path` is its own, `below` what precedes the names of files beside it.
///
/// # Errors
/// [`FormatError`] when it is unreadable, contradicts the format, or names a file that it must not.
pub fn read(path: &Path, rel_path: &str, below: &str) -> Result<Onnx, FormatError> {
    let probe = Probe::open(path, rel_path)?;
    let end = probe.facts.size;
    let mut walker = wire::Walker::new(Cursor::new(&probe, Format::Onnx, TEXT_TOTAL_BYTES));
    let graph = graph::model(&mut walker, end)?;
    probe.check_unchanged()?;
    let placed = external::place(probe.facts, below, &graph.initializers)?;
    Ok(Onnx { graph, files: placed.files, tensors: placed.tensors, without_range: placed.without_range })
}

/// The graph's own file, where the part of this kind of a pipeline folder is an ONNX graph. Its tensors have the names, shapes and
/// order that its exporter gave them, which no table of an architecture says anything of.
#[must_use]
pub fn graph_file<'i>(inspection: &'i Inspection, kind: &str) -> Option<&'i FileFacts> {
    inspection.metadata.get("onnx")?.get(kind)?.as_object()?;
    let path = format!("{kind}/{GRAPH_FILE}");
    inspection.files.iter().find(|file| file.rel_path == path)
}

/// Inspects the ONNX file at `path`: one component with the weights that are ranges of bytes.
///
/// # Errors
/// As [`read`].
pub fn inspect(path: &Path) -> Result<Inspection, FormatError> {
    let onnx = read(path, "", "")?;
    let mut inspection = unknown(path, Format::Onnx, onnx.files);
    inspection.model_type = ModelType::Onnx;
    inspection.reason = Some("base unknown: a graph does not say of which family it is".to_owned());
    inspection.evidence.push(Evidence::new("onnx.ir_version", "header", onnx.graph.ir_version));
    inspection.evidence.push(Evidence::new("onnx.nodes", "graph", onnx.graph.nodes));
    let facts = json!({
        "tensors": onnx.tensors.len(), "ignored_tensors": onnx.without_range, "part": onnx.graph.part(),
    });
    inspection.metadata.insert("onnx".to_owned(), storable_json(json!(onnx.graph)));
    inspection.metadata.insert("facts".to_owned(), facts);
    let part = component(ComponentKind::Onnx, onnx.tensors);
    inspection.variant = crate::components::variant(std::slice::from_ref(&part));
    inspection.components.push(part);
    Ok(inspection)
}

impl Graph {
    /// Which part of a diffusion model has these inputs and outputs, where exporters agree on names.
    #[must_use]
    pub fn part(&self) -> Option<&'static str> {
        let input = |name: &str| self.inputs.iter().any(|port| port.name == name);
        let output = |name: &str| self.outputs.iter().any(|port| port.name == name);
        if input("sample") && input("timestep") {
            Some("unet")
        } else if input("hidden_states") && input("timestep") {
            Some("transformer")
        } else if input("latent_sample") {
            Some("vae_decoder")
        } else if input("sample") && (output("latent_sample") || output("latent_parameters")) {
            Some("vae_encoder")
        } else if input("input_ids") {
            Some("text_encoder")
        } else if input("clip_input") && output("has_nsfw_concepts") {
            Some("safety_checker")
        } else {
            None
        }
    }
}
