//! The graph of an ONNX model without its weights: large ones become inputs, so that they are bound to whatever memory holds
//! them, and so do small ones that a layer has learned. Other small ones stay, because operators take shapes, axes and scales as
//! constants. Every other byte is copied as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    TEXT_TOTAL_BYTES, external, graph,
    tensor::{self, Initializer, Place, element_number},
    uses::Uses,
    wire::{Field, Walker, put},
};
use crate::{
    cursor::Cursor,
    dtype::Dtype,
    error::FormatError,
    inspection::{FileFacts, TensorFacts},
    probe::Probe,
    vocab::Format,
};

/// Weights of more bytes become inputs whatever uses them.
const SMALL_BYTES: u64 = 1 << 10;
/// Most bytes of a graph without its weights.
const GRAPH_LIMIT: usize = 256 << 20;

/// A graph whose large weights are inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    /// The ONNX model.
    pub model: Vec<u8>,
    /// Its inputs that are weights, in the graph's order.
    pub weights: Vec<DetachedWeight>,
}

/// An input that is a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedWeight {
    /// Name, in the graph and of the tensor.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<u64>,
}

/// Reads the ONNX model that was seen before as `seen`, with the files beside it, without the bytes of its large weights.
///
/// # Errors
/// [`FormatError::Changed`] when one of them is another file by now; as [`super::read`]; a graph of more than 256 MiB.
pub fn detach(seen: &FileFacts, beside: &[FileFacts]) -> Result<Detached, FormatError> {
    let probe = Probe::open(&seen.path, &seen.rel_path)?;
    probe.must_be(seen)?;
    let end = probe.facts.size;
    let walker = || Walker::new(Cursor::new(&probe, Format::Onnx, TEXT_TOTAL_BYTES));
    let whole = graph::model(&mut walker(), end)?;
    let below = seen.rel_path.rsplit_once('/').map_or_else(String::new, |(folder, _)| format!("{folder}/"));
    let placed = external::place(probe.facts.clone(), &below, &whole.initializers)?;
    let is_known = |file: &&FileFacts| beside.contains(file);
    if let Some(other) = placed.files.iter().skip(1).find(|file| !is_known(file)) {
        return Err(FormatError::Changed { path: other.path.clone() });
    }
    let tensors = placed.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let uses = Uses::read(&mut walker(), end)?;
    let (files, listed) = (placed.files.as_slice(), BTreeSet::new());
    let mut copy = Copy { probe: &probe, files, tensors, uses, listed, weights: Vec::new() };
    let model = copy.model(&mut walker(), end)?;
    let Copy { weights, .. } = copy;
    probe.check_unchanged()?;
    Ok(Detached { model, weights })
}

/// Copies a model field by field.
struct Copy<'p> {
    probe: &'p Probe,
    files: &'p [FileFacts],
    /// Weights that are ranges of files, by name.
    tensors: BTreeMap<&'p str, &'p TensorFacts>,
    uses: Uses,
    /// Names that the graph lists as inputs.
    listed: BTreeSet<String>,
    weights: Vec<DetachedWeight>,
}

impl Copy<'_> {
    fn model(&mut self, walker: &mut Walker<'_>, end: u64) -> Result<Vec<u8>, FormatError> {
        let mut model = Vec::new();
        loop {
            let begin = walker.cursor.at();
            match walker.next(end)? {
                None => return Ok(model),
                Some(Field::Bytes(7, length)) => {
                    let graph = self.graph(walker, length)?;
                    put::bytes(&mut model, 7, &graph);
                }
                Some(other) => {
                    graph::pass(walker, other)?;
                    self.take(&mut model, begin..walker.cursor.at())?;
                }
            }
        }
    }

    fn graph(&mut self, walker: &mut Walker<'_>, length: u64) -> Result<Vec<u8>, FormatError> {
        let end = walker.end_of(length);
        let mut graph = Vec::new();
        loop {
            let begin = walker.cursor.at();
            let Some(field) = walker.next(end)? else { break };
            match field {
                Field::Bytes(5, length) => {
                    let initializer = tensor::initializer(walker, length)?;
                    self.weight(walker, &mut graph, &initializer, begin)?;
                }
                Field::Bytes(11, length) => {
                    self.listed.insert(graph::port(walker, length)?.name);
                    self.take(&mut graph, begin..walker.cursor.at())?;
                }
                other => {
                    graph::pass(walker, other)?;
                    self.take(&mut graph, begin..walker.cursor.at())?;
                }
            }
        }
        // before version 4 of the format every weight is listed as an input already
        for weight in self.weights.iter().filter(|weight| !self.listed.contains(&weight.name)) {
            put::bytes(&mut graph, 11, &port(weight));
        }
        Ok(graph)
    }

    /// A weight becomes an input, or stays: as it is, or with the bytes that were in a file beside the model.
    fn weight(
        &mut self,
        walker: &Walker<'_>,
        graph: &mut Vec<u8>,
        weight: &Initializer,
        begin: u64,
    ) -> Result<(), FormatError> {
        let found = self.tensors.get(weight.name.as_str()).copied();
        match (found, &weight.place) {
            (Some(tensor), _) if is_detached(tensor, &self.uses) => {
                let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
                self.weights.push(DetachedWeight { name, dtype: tensor.dtype, shape });
                Ok(())
            }
            (Some(tensor), Place::External { .. }) => {
                let message = self.inlined(tensor)?;
                put::bytes(graph, 5, &message);
                self.limited(graph)
            }
            (None, Place::External { .. }) => {
                Err(walker.cursor.problem("a weight beside the model has an element type that is not loaded"))
            }
            _ => self.take(graph, begin..walker.cursor.at()),
        }
    }

    /// A tensor's message with its bytes in it.
    fn inlined(&self, tensor: &TensorFacts) -> Result<Vec<u8>, FormatError> {
        let facts = self.files.get(tensor.file).ok_or_else(|| FormatError::Missing { path: self.path() })?;
        let length = usize::try_from(tensor.bytes()).ok().filter(|length| *length <= GRAPH_LIMIT);
        let mut bytes = vec![0; length.ok_or_else(|| self.too_large())?];
        let probe = Probe::open(&facts.path, &facts.rel_path)?;
        probe.must_be(facts)?;
        probe.read_data(&mut bytes, tensor.begin)?;
        let mut message = Vec::new();
        tensor.shape.iter().for_each(|side| put::number(&mut message, 1, *side));
        put::number(&mut message, 2, element_number(tensor.dtype).unwrap_or_default());
        put::bytes(&mut message, 8, tensor.name.as_bytes());
        put::bytes(&mut message, 9, &bytes);
        Ok(message)
    }

    /// Copies a range of the file.
    fn take(&self, target: &mut Vec<u8>, range: Range<u64>) -> Result<(), FormatError> {
        let begin = target.len();
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let end = begin.checked_add(length).filter(|end| *end <= GRAPH_LIMIT).ok_or_else(|| self.too_large())?;
        target.resize(end, 0);
        self.probe.read_at(target.get_mut(begin..).unwrap_or_default(), range.start)
    }

    fn limited(&self, graph: &[u8]) -> Result<(), FormatError> {
        if graph.len() <= GRAPH_LIMIT { Ok(()) } else { Err(self.too_large()) }
    }

    fn too_large(&self) -> FormatError {
        let what = "bytes of a graph without its large weights";
        FormatError::TooMany { path: self.path(), what, limit: GRAPH_LIMIT as u64 }
    }

    fn path(&self) -> std::path::PathBuf {
        self.probe.facts.path.clone()
    }
}

/// Numbers that a network has learned; integers of more bits are shapes and indices, which operators take as constants.
fn is_detached(tensor: &TensorFacts, uses: &Uses) -> bool {
    let is_learned = matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64 | Dtype::I8 | Dtype::U8);
    let elements = tensor.shape.iter().fold(1_u64, |count, side| count.saturating_mul(*side));
    let is_large = tensor.bytes() > SMALL_BYTES;
    is_learned && (is_large || uses.are_learned(&tensor.name, elements)) && element_number(tensor.dtype).is_some()
}

/// The message of an input.
fn port(weight: &DetachedWeight) -> Vec<u8> {
    let (mut shape, mut tensor, mut kind, mut port) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for side in &weight.shape {
        let mut dimension = Vec::new();
        put::number(&mut dimension, 1, *side);
        put::bytes(&mut shape, 1, &dimension);
    }
    put::number(&mut tensor, 1, element_number(weight.dtype).unwrap_or_default());
    put::bytes(&mut tensor, 2, &shape);
    put::bytes(&mut kind, 1, &tensor);
    put::bytes(&mut port, 1, weight.name.as_bytes());
    put::bytes(&mut port, 2, &kind);
    port
}
