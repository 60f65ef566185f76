//! What the operators of a graph do with its values: which small weights are taken where learned numbers are, and nowhere else. All
//! others stay constants, because operators take shapes, axes, scales and bounds so.

use std::collections::BTreeMap;

use super::{
    graph::pass,
    wire::{Field, Walker},
};
use crate::error::FormatError;

/// Deepest graph inside a graph that is looked into; values that are used deeper are left alone.
const MAX_DEPTH: u32 = 16;
/// Elements of what is added or multiplied from which on it is a layer's, and no size, mean or scale of an image.
const LAYER: u64 = 5;

/// How a value is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// As a layer's weight, bias or scale.
    Learned,
    /// Added, or multiplied with.
    Elementwise,
    /// Otherwise, which may be as a constant.
    Other,
}

/// The uses of a graph's values.
#[derive(Debug, Default)]
pub(super) struct Uses(BTreeMap<String, Use>);

impl Uses {
    /// Of the model from the cursor to `end`.
    pub(super) fn read(walker: &mut Walker<'_>, end: u64) -> Result<Self, FormatError> {
        let mut uses = Self::default();
        while let Some(field) = walker.next(end)? {
            match field {
                Field::Bytes(7, length) => {
                    let end = walker.end_of(length);
                    uses.graph(walker, end, 0)?;
                }
                other => pass(walker, other)?,
            }
        }
        Ok(uses)
    }

    /// Whether so many numbers of this name are a layer's, whatever uses them.
    pub(super) fn are_learned(&self, name: &str, elements: u64) -> bool {
        match self.0.get(name) {
            Some(Use::Learned) => elements > 1,
            Some(Use::Elementwise) => elements >= LAYER,
            Some(Use::Other) | None => false,
        }
    }

    fn graph(&mut self, walker: &mut Walker<'_>, end: u64, depth: u32) -> Result<(), FormatError> {
        while let Some(field) = walker.next(end)? {
            match field {
                Field::Bytes(1, length) => self.node(walker, length, depth)?,
                // what a graph gives it does not get from a weight that moves
                Field::Bytes(12, length) => {
                    let name = super::graph::port(walker, length)?.name;
                    self.note(name, Use::Other);
                }
                other => pass(walker, other)?,
            }
        }
        Ok(())
    }

    fn node(&mut self, walker: &mut Walker<'_>, length: u64, depth: u32) -> Result<(), FormatError> {
        let end = walker.end_of(length);
        let (mut inputs, mut operator, mut domain) = (Vec::new(), String::new(), String::new());
        while let Some(field) = walker.next(end)? {
            match field {
                Field::Bytes(1, length) => inputs.push(walker.text(length)?),
                Field::Bytes(4, length) => operator = walker.text(length)?,
                Field::Bytes(5, length) => self.attribute(walker, length, depth)?,
                Field::Bytes(7, length) => domain = walker.text(length)?,
                other => pass(walker, other)?,
            }
        }
        let is_standard = domain.is_empty() || domain == "ai.onnx";
        for (at, name) in inputs.into_iter().enumerate() {
            self.note(name, if is_standard { of(&operator, at) } else { Use::Other });
        }
        Ok(())
    }

    /// Attributes matter where they hold graphs.
    fn attribute(&mut self, walker: &mut Walker<'_>, length: u64, depth: u32) -> Result<(), FormatError> {
        let end = walker.end_of(length);
        while let Some(field) = walker.next(end)? {
            match field {
                Field::Bytes(6 | 11, length) if depth < MAX_DEPTH => {
                    let end = walker.end_of(length);
                    self.graph(walker, end, depth + 1)?;
                }
                Field::Bytes(6 | 11, _) => return Err(walker.cursor.problem("graphs are nested too deeply")),
                other => pass(walker, other)?,
            }
        }
        Ok(())
    }

    /// The use that says least about a value counts.
    fn note(&mut self, name: String, how: Use) {
        let noted = self.0.entry(name).or_insert(how);
        *noted = (*noted).max(how);
    }
}

/// How an operator uses its input at this place.
fn of(operator: &str, at: usize) -> Use {
    match (operator, at) {
        (
            "Conv" | "ConvTranspose" | "Gemm" | "InstanceNormalization" | "LayerNormalization" | "GroupNormalization",
            1 | 2,
        )
        | ("BatchNormalization", 1..=4)
        | ("PRelu", 1)
        | ("MatMul", 0 | 1) => Use::Learned,
        ("Add" | "Sub" | "Mul", _) => Use::Elementwise,
        _ => Use::Other,
    }
}
