//! A table of tensors, and the modules it is built from.

use std::collections::BTreeMap;

/// More tensors than any model has: configs that ask for more are refused.
const TENSOR_LIMIT: usize = 65_536;

/// Every tensor of an architecture by its canonical name, with its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The class in diffusers or transformers.
    pub class: &'static str,
    /// Canonical name → shape.
    pub tensors: BTreeMap<String, Vec<u64>>,
}

impl Table {
    /// An empty one.
    pub(super) const fn new(class: &'static str) -> Self {
        Self { class, tensors: BTreeMap::new() }
    }

    /// None if it grew beyond all models.
    pub(super) fn finish(self) -> Option<Self> {
        (self.tensors.len() < TENSOR_LIMIT).then_some(self)
    }

    /// One tensor.
    pub(super) fn put(&mut self, name: impl Into<String>, shape: &[u64]) {
        if self.tensors.len() < TENSOR_LIMIT {
            self.tensors.insert(name.into(), shape.to_vec());
        }
    }

    /// A matrix with its bias.
    pub(super) fn linear(&mut self, path: &str, inputs: u64, outputs: u64) {
        self.weight(path, &[outputs, inputs]);
        self.bias(path, outputs);
    }

    /// A convolution with its bias.
    pub(super) fn conv(&mut self, path: &str, inputs: u64, outputs: u64, side: u64) {
        self.weight(path, &[outputs, inputs, side, side]);
        self.bias(path, outputs);
    }

    /// A scale with its offset.
    pub(super) fn norm(&mut self, path: &str, width: u64) {
        self.weight(path, &[width]);
        self.bias(path, width);
    }

    /// A weight alone.
    pub(super) fn weight(&mut self, path: &str, shape: &[u64]) {
        self.put(format!("{path}.weight"), shape);
    }

    /// A bias alone.
    pub(super) fn bias(&mut self, path: &str, width: u64) {
        self.put(format!("{path}.bias"), &[width]);
    }
}
