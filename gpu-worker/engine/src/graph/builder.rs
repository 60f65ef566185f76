//! The builder: values, operators, weights and constants of one graph.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::{
    emitted::{Dim, Emitted, Port, Provider, Slot},
    proto::{
        AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    },
};
use crate::{
    error::EngineError,
    tensor::{ElementType, elements},
    weights::{TensorFacts, Weights},
};

/// More tensors than any model has: when so many are missing, the config is not the weights' own.
const MANY_MISSING: usize = 20_000;

/// The ONNX operators' version, the first with `Gelu`.
const OPSET: i64 = 20;
/// The file version that belongs to it.
const IR_VERSION: i64 = 9;
/// The domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";
/// The domain of ours (`runtime/operators.rs`).
pub(crate) const OURS: &str = "modelyard";

/// How weights are stored.
pub trait StorageTypes {
    /// Type and shape of the tensor of this canonical name.
    fn stored(&self, name: &str) -> Option<(ElementType, Vec<usize>)>;
}

impl StorageTypes for TensorFacts {
    fn stored(&self, name: &str) -> Option<(ElementType, Vec<usize>)> {
        self.get(name).map(|fact| (fact.dtype, fact.shape.clone()))
    }
}

impl StorageTypes for Weights {
    fn stored(&self, name: &str) -> Option<(ElementType, Vec<usize>)> {
        self.get(name).map(|weight| (weight.dtype, weight.shape.clone()))
    }
}

/// A value of the graph: an input, a weight, a constant or an operator's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct V(usize);

impl V {
    /// An optional input of an operator that is not given.
    pub const NONE: Self = Self(usize::MAX);
}

/// An attribute of an operator.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// An integer.
    Int(&'static str, i64),
    /// A float.
    Float(&'static str, f32),
    /// Integers.
    Ints(&'static str, Vec<i64>),
    /// Text.
    Text(&'static str, &'static str),
}

/// A graph under construction.
pub struct Graph<'s> {
    name: String,
    provider: Provider,
    compute: ElementType,
    storage: &'s dyn StorageTypes,
    names: Vec<String>,
    graph: GraphProto,
    slots: Vec<Slot>,
    inputs: Vec<Port>,
    outputs: Vec<String>,
    known: HashMap<String, V>,
    is_converting: bool,
    faults: Vec<EngineError>,
    missing: Vec<String>,
}

impl std::fmt::Debug for Graph<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("name", &self.name).field("nodes", &self.graph.node.len()).finish_non_exhaustive()
    }
}

impl<'s> Graph<'s> {
    /// An empty graph that computes in 32-bit floats.
    #[must_use]
    pub fn new(name: impl Into<String>, provider: Provider, storage: &'s dyn StorageTypes) -> Self {
        let name = name.into();
        Self {
            graph: GraphProto { name: name.clone(), ..GraphProto::default() },
            name,
            provider,
            compute: ElementType::F32,
            storage,
            names: Vec::new(),
            slots: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            known: HashMap::new(),
            is_converting: false,
            faults: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Who will run it.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The type in which it computes: weights and [`Graph::scalar`] have it.
    #[must_use]
    pub fn compute(&self) -> ElementType {
        self.compute
    }

    /// The weights that were asked for so far, in order, whether the storage has them or not.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Computes in another type from here on: 16-bit floats, where the provider has kernels for them (the CPU has none).
    pub fn set_compute(&mut self, compute: ElementType) {
        self.compute = compute;
    }

    /// True when the weights hold this tensor: for what an architecture has or has not (a bias, a shortcut).
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.storage.stored(name).is_some()
    }

    /// Nothing will come of it: what is added from here on is left aside, so that a config that asks for more than the weights have
    /// takes no memory.
    fn is_broken(&self) -> bool {
        !self.faults.is_empty() || self.missing.len() >= MANY_MISSING
    }

    fn value(&mut self, name: String) -> V {
        self.names.push(name);
        V(self.names.len() - 1)
    }

    fn name_of(&self, value: V) -> String {
        // `V::NONE` is the empty name, as ONNX writes an input that is not given
        self.names.get(value.0).cloned().unwrap_or_default()
    }

    /// An input that is no weight.
    pub fn input(&mut self, name: &str, dtype: ElementType, dims: &[Dim]) -> V {
        self.graph.input.push(info(name, dtype, dims));
        self.inputs.push(Port { name: name.to_owned(), dtype, dims: dims.iter().copied().map(Into::into).collect() });
        self.value(name.to_owned())
    }

    /// An input [batch, channels, height, width] of 32-bit floats, given on in the type in which the graph computes.
    pub fn image_input(&mut self, name: &str, channels: usize) -> V {
        let dims = [Dim::Free("batch"), Dim::Fixed(channels), Dim::Free("height"), Dim::Free("width")];
        let x = self.input(name, ElementType::F32, &dims);
        self.to_compute(x)
    }

    /// A float value in the type in which the graph computes.
    pub fn to_compute(&mut self, value: V) -> V {
        if self.compute == ElementType::F32 { value } else { self.cast(value, self.compute) }
    }

    /// The weight of this canonical name and shape, in the type in which the graph computes.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> V {
        self.weight_as(name, shape, shape)
    }

    /// The weight of this canonical name and shape, in the type in which it is stored: for operators that only move rows.
    pub fn weight_stored(&mut self, name: &str, shape: &[usize]) -> V {
        self.weight_input(name, shape, shape).0
    }

    /// The same bytes under other sides: `stored` is the tensor's own shape, `viewed` what the graph sees.
    pub fn weight_as(&mut self, name: &str, stored: &[usize], viewed: &[usize]) -> V {
        let (input, dtype) = self.weight_input(name, stored, viewed);
        if dtype == self.compute {
            return input;
        }
        let key = format!("computed {} {}", self.compute, input.0);
        if let Some(value) = self.known.get(&key) {
            return *value;
        }
        self.is_converting |= viewed.len() > 1;
        let value = self.cast(input, self.compute);
        self.known.insert(key, value);
        value
    }

    /// The input that a weight is, made if it is new, and the type in which it is stored.
    pub(super) fn weight_input(&mut self, name: &str, stored: &[usize], viewed: &[usize]) -> (V, ElementType) {
        if self.is_broken() {
            return (V::NONE, self.compute);
        }
        let input = if stored == viewed { name.to_owned() } else { format!("{name}@{}", sides(viewed)) };
        let key = format!("weight {input}");
        if let Some(value) = self.known.get(&key)
            && let Some(slot) = self.slots.iter().find(|slot| slot.input == input)
        {
            return (*value, slot.dtype);
        }
        let dtype = self.stored_type(name, stored, viewed);
        let dims: Vec<Dim> = viewed.iter().copied().map(Dim::Fixed).collect();
        self.graph.input.push(info(&input, dtype, &dims));
        let slot = Slot {
            input: input.clone(),
            name: name.to_owned(),
            stored: stored.to_vec(),
            shape: viewed.to_vec(),
            dtype,
        };
        self.slots.push(slot);
        let value = self.value(input);
        self.known.insert(key, value);
        (value, dtype)
    }

    /// The type in which a weight is stored; what is wrong with it is told by [`Graph::finish`].
    fn stored_type(&mut self, name: &str, stored: &[usize], viewed: &[usize]) -> ElementType {
        let Some((dtype, shape)) = self.storage.stored(name) else {
            self.missing.push(name.to_owned());
            return ElementType::F32;
        };
        if shape != stored || elements(stored) != elements(viewed) {
            let expected = if shape == stored { viewed.to_vec() } else { stored.to_vec() };
            self.faults.push(EngineError::WeightShape { name: name.to_owned(), expected, found: shape });
        }
        if !dtype.is_float() {
            let expected = "a float type".to_owned();
            self.faults.push(EngineError::WeightType { name: name.to_owned(), expected, found: dtype });
        }
        dtype
    }

    /// An operator with one output.
    pub fn op(&mut self, op_type: &str, domain: &str, inputs: &[V], attrs: &[Attr]) -> V {
        if self.is_broken() {
            return V::NONE;
        }
        self.node(op_type, domain, inputs, attrs);
        self.output_of_last(0)
    }

    /// An operator with several outputs.
    pub fn op_n(&mut self, op_type: &str, domain: &str, inputs: &[V], attrs: &[Attr], outputs: usize) -> Vec<V> {
        if self.is_broken() {
            return vec![V::NONE; outputs];
        }
        self.node(op_type, domain, inputs, attrs);
        (0..outputs).map(|at| self.output_of_last(at)).collect()
    }

    fn node(&mut self, op_type: &str, domain: &str, inputs: &[V], attrs: &[Attr]) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| self.name_of(*input)).collect(),
            output: Vec::new(),
            name: format!("{op_type}_{}", self.graph.node.len()),
            op_type: op_type.to_owned(),
            attribute: attrs.iter().map(attribute).collect(),
            domain: domain.to_owned(),
        });
    }

    fn output_of_last(&mut self, at: usize) -> V {
        let name = format!("v{}_{at}", self.graph.node.len());
        if let Some(node) = self.graph.node.last_mut() {
            node.output.push(name.clone());
        }
        self.value(name)
    }

    /// An operator whose result is the same each time it is asked for (shapes of one value).
    pub(crate) fn op_once(&mut self, op_type: &str, input: V, attrs: &[Attr]) -> V {
        let key = format!("{op_type} {} {attrs:?}", input.0);
        if let Some(value) = self.known.get(&key) {
            return *value;
        }
        let value = self.op(op_type, "", &[input], attrs);
        self.known.insert(key, value);
        value
    }

    /// Converts to another element type.
    pub fn cast(&mut self, value: V, dtype: ElementType) -> V {
        self.op("Cast", "", &[value], &[Attr::Int("to", i64::from(dtype.onnx()))])
    }

    /// A constant of 32-bit floats.
    pub fn const_f32(&mut self, values: &[f32], dims: &[usize]) -> V {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(ElementType::F32, raw, dims)
    }

    /// A constant of 64-bit integers.
    pub fn const_i64(&mut self, values: &[i64], dims: &[usize]) -> V {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(ElementType::I64, raw, dims)
    }

    /// A number in the type in which the graph computes.
    pub fn scalar(&mut self, number: f32) -> V {
        self.filled(number, &[])
    }

    /// A constant in the type in which the graph computes, `number` everywhere.
    pub(crate) fn filled(&mut self, number: f32, dims: &[usize]) -> V {
        if self.is_broken() {
            return V::NONE;
        }
        let one = match self.compute {
            ElementType::F16 => half::f16::from_f32(number).to_le_bytes().to_vec(),
            ElementType::Bf16 => half::bf16::from_f32(number).to_le_bytes().to_vec(),
            _ => number.to_le_bytes().to_vec(),
        };
        self.constant(self.compute, one.repeat(elements(dims).unwrap_or(0)), dims)
    }

    fn constant(&mut self, dtype: ElementType, raw_data: Vec<u8>, dims: &[usize]) -> V {
        if self.is_broken() {
            return V::NONE;
        }
        let key = format!("const {dtype} {dims:?} {raw_data:?}");
        if let Some(value) = self.known.get(&key) {
            return *value;
        }
        let name = format!("c{}", self.graph.initializer.len());
        let dims = dims.iter().map(|side| i64::try_from(*side).unwrap_or(i64::MAX)).collect();
        self.graph.initializer.push(TensorProto { dims, data_type: dtype.onnx(), name: name.clone(), raw_data });
        let value = self.value(name);
        self.known.insert(key, value);
        value
    }

    /// Makes a value an output, as 32-bit floats where the graph computes in a shorter type.
    pub fn output(&mut self, name: &str, value: V) {
        let dtype = ElementType::F32;
        let (op, attrs): (_, &[Attr]) = if self.compute == dtype {
            ("Identity", &[])
        } else {
            ("Cast", &[Attr::Int("to", ElementType::F32.onnx() as i64)])
        };
        self.node(op, "", &[value], attrs);
        if let Some(node) = self.graph.node.last_mut() {
            node.output.push(name.to_owned());
        }
        self.graph.output.push(ValueInfoProto { name: name.to_owned(), r#type: tensor_type(dtype, None) });
        self.outputs.push(name.to_owned());
    }

    /// The finished graph.
    ///
    /// # Errors
    /// When the weights lack a tensor that was asked for, or have it in another shape or in a type that is no float.
    pub fn finish(self) -> Result<Emitted, EngineError> {
        if let Some(first) = self.missing.first() {
            let (architecture, count) = (self.name, self.missing.len());
            return Err(EngineError::MissingWeights { architecture, count, first: first.clone() });
        }
        if let Some(fault) = self.faults.into_iter().next() {
            return Err(fault);
        }
        let mut graph = self.graph;
        conversions_first(&mut graph.node, &self.slots);
        let set = |(domain, version): (&str, i64)| OperatorSetIdProto { domain: domain.to_owned(), version };
        // who does not know our domain does not read a graph that names it
        let ours = graph.node.iter().any(|node| node.domain == OURS).then_some((OURS, 1));
        let imports = [("", OPSET), (MICROSOFT, 1)].into_iter().chain(ours).map(set).collect();
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "modelyard".to_owned(),
            graph: Some(graph),
            opset_import: imports,
        };
        let model = model.encode_to_vec();
        let digest = blake3::hash(&model).to_hex();
        let key = format!("{} {} {digest}", self.name, self.provider.as_str());
        let Self { name, provider, slots, inputs, outputs, is_converting, .. } = self;
        Ok(Emitted { name, provider, model, slots, inputs, outputs, key, is_converting, is_users: false })
    }
}

/// Puts the conversions of weights in front. The library runs a node's inputs from the last in the list to the first, so a
/// weight is converted right before its use; behind its use's other input it would be converted before all that leads
/// there, and wait.
fn conversions_first(nodes: &mut [NodeProto], slots: &[Slot]) {
    let weights: HashSet<&str> = slots.iter().map(|slot| slot.input.as_str()).collect();
    let is_conversion = |node: &NodeProto| {
        node.op_type == "Cast" && node.input.first().is_some_and(|input| weights.contains(input.as_str()))
    };
    nodes.sort_by_key(|node| !is_conversion(node));
}

fn sides(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn attribute(attr: &Attr) -> AttributeProto {
    let base = AttributeProto::default();
    match attr {
        Attr::Float(name, f) => AttributeProto { name: (*name).to_owned(), f: *f, kind: 1, ..base },
        Attr::Int(name, i) => AttributeProto { name: (*name).to_owned(), i: *i, kind: 2, ..base },
        Attr::Text(name, s) => AttributeProto { name: (*name).to_owned(), s: s.as_bytes().to_vec(), kind: 3, ..base },
        Attr::Ints(name, ints) => AttributeProto { name: (*name).to_owned(), ints: ints.clone(), kind: 7, ..base },
    }
}

fn info(name: &str, dtype: ElementType, dims: &[Dim]) -> ValueInfoProto {
    let side = |dim: &Dim| DimensionProto {
        value: Some(match dim {
            Dim::Fixed(side) => DimensionValue::Value(i64::try_from(*side).unwrap_or(i64::MAX)),
            Dim::Free(name) => DimensionValue::Param((*name).to_owned()),
        }),
    };
    let shape = TensorShapeProto { dim: dims.iter().map(side).collect() };
    ValueInfoProto { name: name.to_owned(), r#type: tensor_type(dtype, Some(shape)) }
}

fn tensor_type(dtype: ElementType, shape: Option<TensorShapeProto>) -> Option<TypeProto> {
    Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type: dtype.onnx(), shape }) })
}
