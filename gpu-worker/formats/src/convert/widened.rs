//! Tensors that have another type than was meant to be kept: made of several of different types, in one that holds them all.

use std::collections::BTreeMap;

use super::{OutFile, OutTensor, Precision, Request};
use crate::dtype::Dtype;

/// Names that a group shows.
const EXAMPLES: usize = 5;

/// Tensors that are made of parts of these types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Widened {
    /// The types of the parts, each once.
    pub from: Vec<Dtype>,
    /// The type that holds all of them exactly.
    pub to: Dtype,
    /// How many.
    pub tensors: usize,
    /// Some of their names.
    pub examples: Vec<String>,
}

/// Groups them. Where another type was asked for nobody expects that of the parts.
pub(super) fn widened(files: &[OutFile], request: &Request) -> Vec<Widened> {
    let mut groups: BTreeMap<(Vec<Dtype>, Dtype), Widened> = BTreeMap::new();
    let keeps = |tensor: &&OutTensor| request.precision_of(tensor.component) == Precision::Keep;
    let kept = files.iter().flat_map(|file| &file.tensors).filter(keeps);
    for tensor in kept {
        let from = types(tensor);
        if from.len() < 2 {
            continue;
        }
        let none = Widened { from: from.clone(), to: tensor.dtype, tensors: 0, examples: Vec::new() };
        let group = groups.entry((from, tensor.dtype)).or_insert(none);
        group.tensors = group.tensors.saturating_add(1);
        if group.examples.len() < EXAMPLES {
            group.examples.push(crate::text::storable(&tensor.name));
        }
    }
    groups.into_values().collect()
}

/// The types of what a tensor is made of, each once.
fn types(tensor: &OutTensor) -> Vec<Dtype> {
    let mut types: Vec<Dtype> = tensor.from.iter().map(|part| part.dtype).collect();
    types.sort_unstable();
    types.dedup();
    types
}
