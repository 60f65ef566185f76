//! Walking an ONNX model: its versions, its graph's inputs, outputs and operators, and its weights.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    tensor::{self, Initializer},
    wire::{Field, Walker},
};
use crate::error::FormatError;

/// Most nodes, values and weights of a graph.
const NODE_LIMIT: usize = 1 << 20;
const VALUE_LIMIT: usize = 1 << 14;
const WEIGHT_LIMIT: usize = 1 << 18;
/// Most different operators that are counted by name.
const OPERATOR_LIMIT: usize = 4096;
/// Deepest graph inside a graph (branches and loop bodies).
const MAX_DEPTH: u32 = 16;

/// An input or output of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Element type as ONNX names it (`FLOAT16`, …); empty when it is no tensor.
    pub element: String,
    /// Dimensions: a number, or the name of a free one.
    pub shape: Vec<String>,
}

/// What the model says, without its weights' bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Graph {
    /// Version of the intermediate representation.
    pub ir_version: u64,
    /// Operator sets by domain (the default one is `ai.onnx`).
    pub opsets: BTreeMap<String, u64>,
    /// The program that wrote it, with its version.
    pub producer: String,
    /// The graph's name.
    pub name: String,
    /// Inputs that are not weights.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Nodes in all, of branches and loop bodies too.
    pub nodes: usize,
    /// Nodes by `domain.operator`.
    pub operators: BTreeMap<String, usize>,
    /// Text that the exporter left.
    pub metadata: BTreeMap<String, String>,
    /// The weights.
    #[serde(skip)]
    pub(super) initializers: Vec<Initializer>,
    /// Sparse weights, which are counted only.
    pub sparse_initializers: usize,
}

/// Reads the model from the cursor to `end`.
pub(super) fn model(walker: &mut Walker<'_>, end: u64) -> Result<Graph, FormatError> {
    let mut found = Graph::default();
    let mut graphs = 0u32;
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Number(1, version) => found.ir_version = version,
            Field::Bytes(2, length) => found.producer = walker.text(length)?,
            Field::Bytes(3, length) => {
                let version = walker.text(length)?;
                found.producer = format!("{} {version}", found.producer).trim().to_owned();
            }
            Field::Bytes(7, length) => {
                graphs = graphs.saturating_add(1);
                let end = walker.end_of(length);
                graph(walker, end, &mut found, 0)?;
            }
            Field::Bytes(8, length) => opset(walker, length, &mut found)?,
            Field::Bytes(14, length) => {
                let (key, value) = tensor::entry(walker, length)?;
                bounded(walker, found.metadata.len(), VALUE_LIMIT, "metadata entries")?;
                found.metadata.insert(key, value);
            }
            other => pass(walker, other)?,
        }
    }
    if found.ir_version == 0 || graphs != 1 {
        return Err(walker.cursor.problem("it holds no single graph with a version"));
    }
    // version 3 of the format asks for them, and they may be all that a cut file lacks
    if found.ir_version >= 3 && found.opsets.is_empty() {
        return Err(walker.cursor.problem("it names no operator sets"));
    }
    let weights: std::collections::BTreeSet<&str> =
        found.initializers.iter().map(|weight| weight.name.as_str()).collect();
    // before version 4 every weight is listed as an input as well
    found.inputs.retain(|port| !weights.contains(port.name.as_str()));
    Ok(found)
}

/// Moves over a field that is of no interest.
pub(super) fn pass(walker: &mut Walker<'_>, field: Field) -> Result<(), FormatError> {
    match field {
        Field::Bytes(_, length) => walker.cursor.skip(length),
        Field::Number(..) | Field::Fixed => Ok(()),
    }
}

fn bounded(walker: &Walker<'_>, count: usize, limit: usize, what: &'static str) -> Result<(), FormatError> {
    if count < limit {
        return Ok(());
    }
    Err(FormatError::TooMany { path: walker.cursor.path().to_owned(), what, limit: limit as u64 })
}

fn opset(walker: &mut Walker<'_>, length: u64, found: &mut Graph) -> Result<(), FormatError> {
    let end = walker.end_of(length);
    let (mut domain, mut version) = (String::new(), 0);
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Bytes(1, length) => domain = walker.text(length)?,
            Field::Number(2, number) => version = number,
            other => pass(walker, other)?,
        }
    }
    bounded(walker, found.opsets.len(), VALUE_LIMIT, "operator sets")?;
    found.opsets.insert(domain_name(domain), version);
    Ok(())
}

fn domain_name(domain: String) -> String {
    if domain.is_empty() { "ai.onnx".to_owned() } else { domain }
}

fn graph(walker: &mut Walker<'_>, end: u64, found: &mut Graph, depth: u32) -> Result<(), FormatError> {
    if depth > MAX_DEPTH {
        return Err(walker.cursor.problem("graphs are nested too deeply"));
    }
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Bytes(1, length) => node(walker, length, found, depth)?,
            Field::Bytes(2, length) if depth == 0 => found.name = walker.text(length)?,
            Field::Bytes(5, length) if depth == 0 => {
                bounded(walker, found.initializers.len(), WEIGHT_LIMIT, "weights")?;
                found.initializers.push(tensor::initializer(walker, length)?);
            }
            Field::Bytes(11, length) if depth == 0 => {
                bounded(walker, found.inputs.len(), WEIGHT_LIMIT, "inputs")?;
                found.inputs.push(port(walker, length)?);
            }
            Field::Bytes(12, length) if depth == 0 => {
                bounded(walker, found.outputs.len(), VALUE_LIMIT, "outputs")?;
                found.outputs.push(port(walker, length)?);
            }
            Field::Bytes(15, length) => {
                found.sparse_initializers = found.sparse_initializers.saturating_add(1);
                walker.cursor.skip(length)?;
            }
            other => pass(walker, other)?,
        }
    }
    Ok(())
}

fn node(walker: &mut Walker<'_>, length: u64, found: &mut Graph, depth: u32) -> Result<(), FormatError> {
    let end = walker.end_of(length);
    let (mut operator, mut domain) = (String::new(), String::new());
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Bytes(4, length) => operator = walker.text(length)?,
            Field::Bytes(5, length) => attribute(walker, length, found, depth)?,
            Field::Bytes(7, length) => domain = walker.text(length)?,
            other => pass(walker, other)?,
        }
    }
    bounded(walker, found.nodes, NODE_LIMIT, "nodes")?;
    found.nodes = found.nodes.saturating_add(1);
    let name = format!("{}.{operator}", domain_name(domain));
    if found.operators.len() < OPERATOR_LIMIT || found.operators.contains_key(&name) {
        let count = found.operators.entry(name).or_default();
        *count = count.saturating_add(1);
    }
    Ok(())
}

/// Attributes matter where they hold graphs.
fn attribute(walker: &mut Walker<'_>, length: u64, found: &mut Graph, depth: u32) -> Result<(), FormatError> {
    let end = walker.end_of(length);
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Bytes(6 | 11, length) => {
                let end = walker.end_of(length);
                graph(walker, end, found, depth.saturating_add(1))?;
            }
            other => pass(walker, other)?,
        }
    }
    Ok(())
}

pub(super) fn port(walker: &mut Walker<'_>, length: u64) -> Result<Port, FormatError> {
    let end = walker.end_of(length);
    let mut port = Port::default();
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Bytes(1, length) => port.name = walker.text(length)?,
            Field::Bytes(2, length) => {
                let end = walker.end_of(length);
                while let Some(field) = walker.next(end)? {
                    match field {
                        Field::Bytes(1, length) => tensor_type(walker, length, &mut port)?,
                        other => pass(walker, other)?,
                    }
                }
            }
            other => pass(walker, other)?,
        }
    }
    Ok(port)
}

fn tensor_type(walker: &mut Walker<'_>, length: u64, port: &mut Port) -> Result<(), FormatError> {
    let end = walker.end_of(length);
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Number(1, element) => port.element = tensor::element_name(element).to_owned(),
            Field::Bytes(2, length) => {
                let end = walker.end_of(length);
                while let Some(field) = walker.next(end)? {
                    match field {
                        Field::Bytes(1, length) => {
                            bounded(walker, port.shape.len(), tensor::MAX_DIMENSIONS, "dimensions")?;
                            port.shape.push(dimension(walker, length)?);
                        }
                        other => pass(walker, other)?,
                    }
                }
            }
            other => pass(walker, other)?,
        }
    }
    Ok(())
}

fn dimension(walker: &mut Walker<'_>, length: u64) -> Result<String, FormatError> {
    let end = walker.end_of(length);
    let mut dimension = "?".to_owned();
    while let Some(field) = walker.next(end)? {
        match field {
            Field::Number(1, size) => dimension = size.to_string(),
            Field::Bytes(2, length) => dimension = walker.text(length)?,
            other => pass(walker, other)?,
        }
    }
    Ok(dimension)
}
