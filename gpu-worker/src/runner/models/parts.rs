//! A run's parts as the engine takes them: canonical names over the device's memory.

use std::sync::Arc;

use engine::{
    ElementType, Weights,
    forward::Component,
    graph::{UserGraph, UserWeight},
    weights::Weight,
};
use model_formats::onnx::DetachedWeight;
use shared::error::{ErrorBody, ErrorCode};

use super::Bench;
use crate::{
    error::WorkError,
    runner::{DeviceTensor, PartFacts, engine_thread::RunFailure, sheets::Layer},
};

impl Bench<'_> {
    /// The digest of a part's content; of a variant its key.
    pub(super) fn digest(&self, facts: &PartFacts) -> Option<String> {
        self.order.parts.iter().find(|part| part.slot == facts.slot).map(|part| part.digest.clone())
    }

    /// The graph that a part brings; read once while its file stays the same.
    pub(super) fn graph(&self, facts: &PartFacts) -> Result<Option<Arc<UserGraph>>, RunFailure> {
        let Some(file) = &facts.graph else { return Ok(None) };
        if let Some(known) = self.graphs.find(file) {
            return Ok(Some(known));
        }
        let failed = |source| {
            let path = file.path().display().to_string();
            RunFailure::Work(ErrorBody::of(&WorkError::Format { path, source }))
        };
        let detached = file.detach().map_err(failed)?;
        let weights = detached.weights.iter().map(user_weight).collect::<Result<Vec<_>, _>>()?;
        let provider = self.runtime.options().provider;
        let graph = Arc::new(UserGraph::read(detached.model, &weights, provider)?);
        self.graphs.keep(file.clone(), graph.clone());
        Ok(Some(graph))
    }

    /// The weights of a part. Nothing is copied.
    pub(super) fn weights(&self, facts: &PartFacts) -> Result<Weights, RunFailure> {
        let part = self.order.parts.iter().find(|part| part.slot == facts.slot);
        let part = part.ok_or_else(|| {
            RunFailure::Work(ErrorBody::new(ErrorCode::Internal, format!("the run has no part `{}`", facts.slot)))
        })?;
        let mut weights = Weights::new();
        let layers = part.layers.iter();
        for (layer, tensor) in layers.flat_map(|layer| layer.tensors.iter().map(move |tensor| (layer, tensor))) {
            // types that no graph of ours reads are not among the weights: where one is needed, it is named as missing
            if let Some(dtype) = ElementType::parse(&tensor.dtype) {
                weights.insert(tensor.name.clone(), weight(layer, tensor, (&part.slot, dtype))?)?;
            }
        }
        Ok(weights)
    }
}

fn weight(layer: &Layer, tensor: &DeviceTensor, (slot, dtype): (&str, ElementType)) -> Result<Weight, RunFailure> {
    let outside = || {
        let message = format!("`{}` of `{slot}` lies outside its slab", tensor.name);
        RunFailure::Work(ErrorBody::new(ErrorCode::Internal, message))
    };
    let end = tensor.offset.checked_add(tensor.len).ok_or_else(outside)?;
    let memory = layer.view.weight(tensor.offset..end).ok_or_else(outside)?;
    let shape = tensor.shape.iter().map(|side| usize::try_from(*side)).collect::<Result<_, _>>();
    Ok(Weight { dtype, shape: shape.map_err(|_| outside())?, memory })
}

/// A part as the engine takes it.
pub(super) fn component<'c>(part: &'c PartFacts, graph: Option<&'c UserGraph>) -> Component<'c> {
    Component { kind: &part.kind, base: part.base.as_deref(), config: part.config.as_ref(), graph }
}

fn user_weight(weight: &DetachedWeight) -> Result<UserWeight, RunFailure> {
    let DetachedWeight { name, dtype, shape } = weight;
    let shape = shape.iter().map(|side| usize::try_from(*side)).collect::<Result<_, _>>().ok();
    let read = ElementType::parse(dtype.as_str()).zip(shape);
    let (dtype, shape) = read.ok_or_else(|| {
        let message = format!("the weight `{name}` of the graph is of a type or shape that cannot be bound");
        RunFailure::Work(ErrorBody::new(ErrorCode::Unsupported, message))
    })?;
    Ok(UserWeight { name: name.clone(), shape, dtype })
}
