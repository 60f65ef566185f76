//! A run's parts as the engine takes them: canonical names over the device's memory.

use engine::{ElementType, Weights, weights::Weight};
use shared::error::{ErrorBody, ErrorCode};

use super::Bench;
use crate::runner::{
    DeviceTensor, PartFacts,
    engine_thread::{Part, RunFailure},
};

impl Bench<'_> {
    /// The digest of a part's content.
    pub(super) fn digest(&self, facts: &PartFacts) -> Option<String> {
        self.order.parts.iter().find(|part| part.slot == facts.slot).map(|part| part.digest.clone())
    }

    /// The weights of a part. Nothing is copied.
    pub(super) fn weights(&self, facts: &PartFacts) -> Result<Weights, RunFailure> {
        let part = self.order.parts.iter().find(|part| part.slot == facts.slot);
        let part = part.ok_or_else(|| {
            RunFailure::Work(ErrorBody::new(ErrorCode::Internal, format!("the run has no part `{}`", facts.slot)))
        })?;
        let mut weights = Weights::new();
        for tensor in &part.tensors {
            // types that no graph of ours reads are not among the weights: where one is needed, it is named as missing
            if let Some(dtype) = ElementType::parse(&tensor.dtype) {
                weights.insert(tensor.name.clone(), weight(part, tensor, dtype)?)?;
            }
        }
        Ok(weights)
    }
}

fn weight(part: &Part, tensor: &DeviceTensor, dtype: ElementType) -> Result<Weight, RunFailure> {
    let outside = || {
        let message = format!("`{}` of `{}` lies outside its slab", tensor.name, part.slot);
        RunFailure::Work(ErrorBody::new(ErrorCode::Internal, message))
    };
    let end = tensor.offset.checked_add(tensor.len).ok_or_else(outside)?;
    let memory = part.view.weight(tensor.offset..end).ok_or_else(outside)?;
    let shape = tensor.shape.iter().map(|side| usize::try_from(*side)).collect::<Result<_, _>>();
    Ok(Weight { dtype, shape: shape.map_err(|_| outside())?, memory })
}
