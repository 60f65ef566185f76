//! Types and shapes of tensors, without their bytes: what a config is inferred from and a graph is emitted for.

use std::collections::{BTreeMap, BTreeSet};

use crate::{tensor::ElementType, weights::Weights};

/// What is known of a tensor without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorFact {
    /// As it is stored.
    pub dtype: ElementType,
    /// Sides, outermost first.
    pub shape: Vec<usize>,
}

/// The tensors of a component by canonical name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorFacts {
    tensors: BTreeMap<String, TensorFact>,
}

impl FromIterator<(String, TensorFact)> for TensorFacts {
    fn from_iter<I: IntoIterator<Item = (String, TensorFact)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect() }
    }
}

impl TensorFacts {
    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorFact> {
        self.tensors.get(name)
    }

    /// The shape of the tensor of this name.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|fact| fact.shape.as_slice())
    }

    /// One side of the tensor of this name.
    #[must_use]
    pub fn side(&self, name: &str, axis: usize) -> Option<usize> {
        self.shape(name)?.get(axis).copied()
    }

    /// True when there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// True when a name begins like this.
    #[must_use]
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// How many different numbers follow `prefix` in the names: the layers of `layers.`, the blocks of `down_blocks.`.
    #[must_use]
    pub fn count(&self, prefix: &str) -> usize {
        let number =
            |(name, _): (&String, &TensorFact)| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        let below = self.tensors.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        below.filter_map(number).collect::<BTreeSet<_>>().len()
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

    /// Every tensor by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorFact)> {
        self.tensors.iter().map(|(name, fact)| (name.as_str(), fact))
    }
}

impl From<&Weights> for TensorFacts {
    fn from(weights: &Weights) -> Self {
        weights.facts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_by_their_numbers() {
        let names = ["a.0.x", "a.0.y", "a.1.x", "a.10.x", "a.x", "ab.3.x"];
        let fact = TensorFact { dtype: ElementType::F32, shape: vec![4, 2] };
        let facts: TensorFacts = names.iter().map(|name| ((*name).to_owned(), fact.clone())).collect();
        assert_eq!(facts.count("a."), 3);
        assert_eq!(facts.count("b."), 0);
        assert_eq!(facts.side("a.0.x", 1), Some(2));
        assert!(facts.has_prefix("ab.") && !facts.has_prefix("ac."));
    }
}
