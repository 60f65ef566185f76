//! A run's parts as the engine takes them: canonical names over the device's memory.

use engine::{ElementType, Weights, weights::Weight};
use shared::error::{ErrorBody, ErrorCode};

use super::Bench;
use crate::runner::{
    DeviceTensor, PartFacts,
    engine_thread::{Layer, RunFailure},
};

impl Bench<'_> {
    /// The digest of a part's content; of a variant its key.
    pub(super) fn digest(&self, facts: &PartFacts) -> Option<String> {
        self.order.parts.iter().find(|part| part.slot == facts.slot).map(|part| part.digest().to_owned())
    }

    /// The weights of a part. Nothing is copied.
    pub(super) fn weights(&self, facts: &PartFacts) -> Result<Weights, RunFailure> {
        let part = self.order.parts.iter().find(|part| part.slot == facts.slot);
        let part = part.ok_or_else(|| {
            RunFailure::Work(ErrorBody::new(ErrorCode::Internal, format!("the run has no part `{}`", facts.slot)))
        })?;
        let mut weights = Weights::new();
        for (layer, tensor) in part.layers().flat_map(|layer| layer.tensors.iter().map(move |tensor| (layer, tensor))) {
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
