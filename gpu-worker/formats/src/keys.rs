//! Sorted tensor names: exact and prefix look-ups for the detection rules.

use std::collections::BTreeMap;

use crate::inspection::TensorFacts;

/// All tensors of a model by name.
#[derive(Debug)]
pub(crate) struct Keys<'a>(BTreeMap<&'a str, &'a TensorFacts>);

impl<'a> Keys<'a> {
    /// Indexes `tensors`.
    pub(crate) fn new(tensors: &'a [TensorFacts]) -> Self {
        Self(tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect())
    }

    /// How many tensors there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All names with their tensors, sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a TensorFacts)> {
        self.0.iter().map(|(name, tensor)| (*name, *tensor))
    }

    /// The names that begin with `prefix`.
    pub(crate) fn under(&self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a TensorFacts)> {
        self.0
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .map(|(name, tensor)| (*name, *tensor))
            .take_while(move |(name, _)| name.starts_with(prefix))
    }

    /// Whether any name begins with `prefix`.
    pub(crate) fn any_under(&self, prefix: &str) -> bool {
        self.under(prefix).next().is_some()
    }

    /// A view of the names below `prefix`.
    pub(crate) fn scope<'k>(&'k self, prefix: &'static str) -> Scope<'k, 'a> {
        Scope { keys: self, prefix }
    }
}

/// The names below one prefix; look-ups give the rest of the name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'k, 'a> {
    keys: &'k Keys<'a>,
    prefix: &'static str,
}

impl<'a> Scope<'_, 'a> {
    /// The full name of `rest`.
    pub(crate) fn full(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The tensor's shape, where it exists.
    pub(crate) fn shape(&self, rest: &str) -> Option<&'a [u64]> {
        let tensor = self.keys.0.get(self.full(rest).as_str())?;
        Some(tensor.shape.as_slice())
    }

    /// One dimension of a tensor's shape.
    pub(crate) fn dim(&self, rest: &str, axis: usize) -> Option<u64> {
        self.shape(rest)?.get(axis).copied()
    }

    /// Whether the tensor exists.
    pub(crate) fn has(&self, rest: &str) -> bool {
        self.keys.0.contains_key(self.full(rest).as_str())
    }

    /// Whether any tensor's name begins with `rest`.
    pub(crate) fn any_under(&self, rest: &str) -> bool {
        self.keys.any_under(&self.full(rest))
    }

    /// How many of `pattern(0)`, `pattern(1)`, … exist before the first gap.
    pub(crate) fn run_length(&self, pattern: impl Fn(usize) -> String) -> usize {
        (0..self.keys.len()).take_while(|index| self.has(&pattern(*index))).count()
    }
}
