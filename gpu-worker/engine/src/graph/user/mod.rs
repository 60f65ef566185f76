//! A graph that a user brought: what it takes and gives, and what its outermost layers say of sizes. It runs as it is; its
//! weights are inputs, as in the graphs that are emitted here.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::{
    emitted::{Emitted, Port, Provider, Side, Slot},
    proto::{DimensionValue, GraphProto, ModelProto, NodeProto, ValueInfoProto},
};
use crate::{error::EngineError, tensor::ElementType};

/// What errors call it.
pub(crate) const NAME: &str = "ONNX graph";
/// Operators between an input and the first layer, or the last layer and an output, that are looked through.
const PASSING: [&str; 9] = ["Add", "Cast", "Clip", "Div", "Identity", "Mul", "Reshape", "Sub", "Unsqueeze"];
/// Most of them one after the other.
const MOST_PASSING: usize = 16;

/// An input of the graph that is a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserWeight {
    /// Name, of the input and of the tensor.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Element type, as stored and as computed with.
    pub dtype: ElementType,
}

/// A user's graph.
#[derive(Debug, Clone, PartialEq)]
pub struct UserGraph {
    emitted: Emitted,
    outputs: Vec<Port>,
    /// The shape of the first layer's weight behind each input.
    first: BTreeMap<String, Vec<usize>>,
    /// The shape of the last layer's weight before each output.
    last: BTreeMap<String, Vec<usize>>,
    draws_noise: bool,
}

impl UserGraph {
    /// Reads a model whose `weights` are inputs.
    ///
    /// # Errors
    /// [`EngineError::Config`] when it is no ONNX model, or takes or gives what is no tensor of numbers.
    pub fn read(model: Vec<u8>, weights: &[UserWeight], provider: Provider) -> Result<Self, EngineError> {
        let unreadable = |found: String| wrong("model", found, "an ONNX model");
        let read = ModelProto::decode(model.as_slice()).map_err(|error| unreadable(error.to_string()))?;
        let graph = read.graph.ok_or_else(|| unreadable("without a graph".to_owned()))?;
        let shapes = shapes(&graph, weights);
        let takes = |port: &&ValueInfoProto| !shapes.contains_key(port.name.as_str());
        let inputs = graph.input.iter().filter(takes).map(port).collect::<Result<Vec<_>, _>>()?;
        let outputs = graph.output.iter().map(port).collect::<Result<Vec<_>, _>>()?;
        let first = inputs.iter().filter_map(|port| Some((port.name.clone(), behind(&graph, &shapes, &port.name)?)));
        let last = outputs.iter().filter_map(|port| Some((port.name.clone(), before(&graph, &shapes, &port.name)?)));
        let (first, last) = (first.collect(), last.collect());
        let draws_noise = graph.node.iter().any(|node| node.op_type.starts_with("RandomNormal"));
        let key = format!("user {} {}", provider.as_str(), blake3::hash(&model).to_hex());
        let slots: Vec<Slot> = weights.iter().map(slot).collect();
        let names = outputs.iter().map(|port| port.name.clone()).collect();
        let name = NAME.to_owned();
        let is_converting = slots.iter().any(|slot| slot.dtype != ElementType::F32);
        let emitted =
            Emitted { name, provider, model, slots, inputs, outputs: names, key, is_converting, is_users: true };
        Ok(Self { emitted, outputs, first, last, draws_noise })
    }

    /// The graph as a session takes it.
    #[must_use]
    pub fn emitted(&self) -> &Emitted {
        &self.emitted
    }

    /// The input of this name.
    pub(crate) fn input(&self, name: &str) -> Option<&Port> {
        self.emitted.inputs.iter().find(|port| port.name == name)
    }

    /// The output of this name, with its place.
    pub(crate) fn output(&self, name: &str) -> Option<(usize, &Port)> {
        self.outputs.iter().enumerate().find(|(_, port)| port.name == name)
    }

    /// All outputs.
    pub(crate) fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Whether its results differ from run to run.
    pub(crate) fn draws_noise(&self) -> bool {
        self.draws_noise
    }

    /// The shape of the first layer's weight behind an input: of a convolution, or of an embedding.
    pub(crate) fn first_layer(&self, input: &str) -> Option<&[usize]> {
        self.first.get(input).map(Vec::as_slice)
    }

    /// Channels of an input: as its second side says, else as the convolution over it takes them.
    pub(crate) fn channels_in(&self, input: &str) -> Option<usize> {
        let said = self.input(input).and_then(|port| fixed(port, 1));
        said.or_else(|| self.first_layer(input).filter(|shape| shape.len() == 4)?.get(1).copied())
    }

    /// Channels of an output: as its second side says, else as the convolution before it gives them.
    pub(crate) fn channels_out(&self, output: &str) -> Option<usize> {
        let said = self.output(output).and_then(|(_, port)| fixed(port, 1));
        said.or_else(|| self.last.get(output).filter(|shape| shape.len() == 4)?.first().copied())
    }

    /// Refuses a graph that takes other inputs than these, or lacks the first of them.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the input.
    pub(crate) fn must_take(&self, known: &[&str]) -> Result<(), EngineError> {
        let expected = known.join(", ");
        if let Some(port) = self.emitted.inputs.iter().find(|port| !known.contains(&port.name.as_str())) {
            return Err(wrong(&port.name, "an input".to_owned(), &format!("inputs among {expected}")));
        }
        match known.first().filter(|first| self.input(first).is_none()) {
            Some(first) => Err(wrong(first, "no input".to_owned(), "an input of this name")),
            None => Ok(()),
        }
    }
}

/// A side of a port that is always the same.
pub(crate) fn fixed(port: &Port, at: usize) -> Option<usize> {
    match port.dims.get(at) {
        Some(Side::Fixed(side)) => Some(*side),
        _ => None,
    }
}

/// Something of a graph that cannot be run.
pub(crate) fn wrong(field: &str, found: String, expected: &str) -> EngineError {
    EngineError::Config { architecture: NAME, field: field.to_owned(), found, expected: expected.to_owned() }
}

fn slot(weight: &UserWeight) -> Slot {
    let (name, shape) = (weight.name.clone(), weight.shape.clone());
    Slot { input: name.clone(), name, stored: shape.clone(), shape, dtype: weight.dtype }
}

/// Shapes of weights and constants, by name.
fn shapes<'g>(graph: &'g GraphProto, weights: &'g [UserWeight]) -> HashMap<&'g str, Vec<usize>> {
    let constants = graph.initializer.iter().map(|constant| {
        let sides = constant.dims.iter().map(|side| usize::try_from(*side).unwrap_or(0));
        (constant.name.as_str(), sides.collect())
    });
    constants.chain(weights.iter().map(|weight| (weight.name.as_str(), weight.shape.clone()))).collect()
}

fn port(info: &ValueInfoProto) -> Result<Port, EngineError> {
    let tensor = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let number = tensor.map_or(0, |tensor| tensor.elem_type);
    let dtype = ElementType::ALL.into_iter().find(|element| element.onnx() == number);
    let dtype =
        dtype.ok_or_else(|| wrong(&info.name, format!("of the element type {number}"), "a tensor of numbers"))?;
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).into_iter().flat_map(|shape| &shape.dim);
    let side = |value: &Option<DimensionValue>| match value {
        Some(DimensionValue::Value(side)) => usize::try_from(*side).map_or(Side::Free(String::new()), Side::Fixed),
        Some(DimensionValue::Param(name)) => Side::Free(name.clone()),
        None => Side::Free(String::new()),
    };
    Ok(Port { name: info.name.clone(), dtype, dims: dims.map(|dim| side(&dim.value)).collect() })
}

/// The weight of the first convolution or embedding over a value that comes from this input.
fn behind(graph: &GraphProto, shapes: &HashMap<&str, Vec<usize>>, input: &str) -> Option<Vec<usize>> {
    let mut values = vec![input];
    for node in &graph.node {
        let comes = |at: usize| node.input.get(at).is_some_and(|name| values.contains(&name.as_str()));
        let weight = |at: usize| node.input.get(at).and_then(|name| shapes.get(name.as_str())).cloned();
        match node.op_type.as_str() {
            "Conv" if comes(0) => return weight(1),
            "Gather" if comes(1) => return weight(0).filter(|shape| shape.len() == 2),
            operator if PASSING.contains(&operator) && comes(0) && values.len() <= MOST_PASSING => {
                values.extend(node.output.first().map(String::as_str));
            }
            _ => {}
        }
    }
    None
}

/// The weight of the last convolution before this output.
fn before(graph: &GraphProto, shapes: &HashMap<&str, Vec<usize>>, output: &str) -> Option<Vec<usize>> {
    let makes = |name: &str| graph.node.iter().find(|node| node.output.iter().any(|output| output == name));
    let mut node: &NodeProto = makes(output)?;
    for _ in 0..MOST_PASSING {
        match node.op_type.as_str() {
            "Conv" => return shapes.get(node.input.get(1)?.as_str()).cloned(),
            operator if PASSING.contains(&operator) => node = makes(node.input.first()?)?,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests;
