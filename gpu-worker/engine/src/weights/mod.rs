//! Named weights: where the bytes of each tensor of a component lie, and who keeps them there.
//!
//! Names are canonical (diffusers and transformers, without the component's prefix). No bytes are copied: a weight is a
//! range of memory that its owner keeps alive, and whoever holds the [`Weights`] holds the owners.

mod facts;
mod memory;
mod open;

use std::collections::BTreeMap;

pub use facts::{TensorFact, TensorFacts};
pub use memory::{HostMemory, Memory};

use crate::{
    error::EngineError,
    tensor::{ElementType, elements},
};

/// One tensor.
#[derive(Debug, Clone)]
pub struct Weight {
    /// As it is stored.
    pub dtype: ElementType,
    /// Sides, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are.
    pub memory: Memory,
}

/// The tensors of one component. A clone shares the memory.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Weight>,
}

impl Weights {
    /// Without tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor, or replaces the one of this name (a merged LoRA's private copy, for example).
    ///
    /// # Errors
    /// When the memory is not as long as the tensor.
    pub fn insert(&mut self, name: impl Into<String>, weight: Weight) -> Result<(), EngineError> {
        let name = name.into();
        let wanted = elements(&weight.shape).and_then(|count| count.checked_mul(weight.dtype.bytes()));
        if wanted != Some(weight.memory.bytes()) {
            return Err(EngineError::WeightMemory {
                name,
                reason: format!(
                    "{} bytes are there, {} {:?} has {wanted:?}",
                    weight.memory.bytes(),
                    weight.dtype,
                    weight.shape
                ),
            });
        }
        self.tensors.insert(name, weight);
        Ok(())
    }

    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }

    /// Types and shapes of all tensors.
    #[must_use]
    pub fn facts(&self) -> TensorFacts {
        let fact = |(name, weight): (&String, &Weight)| {
            (name.clone(), TensorFact { dtype: weight.dtype, shape: weight.shape.clone() })
        };
        self.tensors.iter().map(fact).collect()
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True without tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|weight| weight.memory.bytes()).sum()
    }

    /// Every tensor by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(name, weight)| (name.as_str(), weight))
    }
}
