//! What a module adds to one tensor of a base, ready for the loop.

use std::borrow::Cow;

use super::{
    dense::{self, Delta, Shaped},
    file::{Factor, Module, floats},
    kernel::{Product, Rows, Summand, change},
    merge::MergeError,
};
use crate::tensor::ElementType;

/// A tensor of a base.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) element: ElementType,
    pub(crate) shape: &'a [usize],
    /// Gets its bytes, row by row: only magnitudes need them, and they may lie far away.
    pub(crate) bytes: &'a dyn Fn() -> Result<Cow<'a, [u8]>, MergeError>,
}

impl Stored<'_> {
    /// As [`matrix`] of its shape.
    pub(crate) fn matrix(self) -> (usize, usize) {
        matrix(self.shape)
    }
}

/// Rows, and what is left of the dimensions.
pub(crate) fn matrix(shape: &[usize]) -> (usize, usize) {
    (shape.first().copied().unwrap_or(1), shape.iter().skip(1).product())
}

/// The axis that DoRA's magnitudes span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// One per output.
    Rows,
    /// One per input channel.
    Inputs,
}

/// The axis of magnitudes for a weight of this shape; none when they fit neither.
pub(super) fn axis(magnitude: &Factor, shape: &[usize]) -> Option<Axis> {
    let (rows, inputs) = (shape.first().copied()?, shape.get(1).copied().unwrap_or(1));
    let across = magnitude.shape.len() >= 2 && magnitude.shape.first() == Some(&1);
    let count = magnitude.values.len();
    match (across, count == rows, count == inputs) {
        (false, true, _) => Some(Axis::Rows),
        (true, _, true) => Some(Axis::Inputs),
        (true, true, false) if rows == 1 => Some(Axis::Rows),
        _ => None,
    }
}

/// What a module adds to a tensor, before it is laid out for the loop of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Added {
    pub(crate) delta: Delta,
    pub(crate) columns: usize,
    /// Multiplies the left factor, or every entry.
    pub(crate) scale: f32,
}

impl Added {
    /// As the processor's loop reads it.
    pub(crate) fn packed(self) -> Summand {
        let Self { delta, columns, scale } = self;
        match delta {
            Delta::Product { up, down, rank } => Summand::Product(Product::of(&up, &down, (rank, columns), scale)),
            Delta::Full(delta) => Summand::Full(delta, scale),
        }
    }
}

/// What a module adds to this weight; none when it changes no weight.
pub(crate) fn of_weight(weight: Stored<'_>, module: &Module, strength: f64) -> Result<Option<Added>, MergeError> {
    // before anything is spread out: a file may claim any size
    let Some([rows, columns]) = dense::shape(module) else { return Ok(None) };
    let misfit = || misfit(module, [rows, columns], weight);
    if weight.matrix() != (rows, columns) {
        return Err(misfit());
    }
    let Some(Shaped { delta, rows, columns }) = dense::shaped(module) else { return Ok(None) };
    if weight.matrix() != (rows, columns) {
        return Err(misfit());
    }
    let Some(magnitude) = &module.magnitude else {
        return Ok(Some(Added { delta, columns, scale: single(module.scale * strength) }));
    };
    let axis = axis(magnitude, weight.shape).ok_or_else(misfit)?;
    let base = floats(weight.element, &(weight.bytes)()?).ok_or(MergeError::Type { found: weight.element })?;
    let mut changed = with_change(&base, columns, Added { delta, columns, scale: single(module.scale) });
    let window = columns.checked_div(weight.shape.get(1).copied().unwrap_or(1)).unwrap_or(1).max(1);
    normalise(&mut changed, (columns, window), magnitude, axis);
    changed.iter_mut().zip(&base).for_each(|(changed, base)| *changed -= base);
    Ok(Some(Added { delta: Delta::Full(changed), columns, scale: single(strength) }))
}

/// What a module adds to this bias; none when it changes no bias. The change stands in the file as it is: it has no rank that a
/// scale could be for.
pub(crate) fn of_bias(bias: Stored<'_>, module: &Module, strength: f64) -> Result<Option<Added>, MergeError> {
    let Some(change) = &module.bias else { return Ok(None) };
    if bias.shape != [change.values.len()] {
        return Err(misfit(module, [change.values.len(), 1], bias));
    }
    Ok(Some(Added { delta: Delta::Full(change.values.clone()), columns: 1, scale: single(strength) }))
}

fn misfit(module: &Module, found: [usize; 2], tensor: Stored<'_>) -> MergeError {
    MergeError::Shape { stem: module.stem.clone(), found, expected: tensor.shape.to_vec() }
}

#[expect(clippy::cast_possible_truncation, reason = "scales are written as 32-bit floats")]
fn single(value: f64) -> f32 {
    value as f32
}

fn with_change(base: &[f32], columns: usize, added: Added) -> Vec<f32> {
    let mut bytes: Vec<u8> = base.iter().flat_map(|value| value.to_le_bytes()).collect();
    // what is no number shows in the sum that is made of it
    change(ElementType::F32, Rows { from: None, first: 0, columns }, &mut bytes, &[added.packed()]);
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// `m · V / ‖V‖`, the norm over every axis but the one of `m`.
fn normalise(values: &mut [f32], (columns, window): (usize, usize), magnitude: &Factor, axis: Axis) {
    let place = |at: usize| match axis {
        Axis::Rows => at / columns.max(1),
        Axis::Inputs => at % columns.max(1) / window,
    };
    let mut squares = vec![0.0_f64; magnitude.values.len()];
    for (at, value) in values.iter().enumerate() {
        if let Some(sum) = squares.get_mut(place(at)) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "back to the precision of the sum")]
    let factors: Vec<f32> = squares
        .iter()
        .zip(&magnitude.values)
        .map(|(square, magnitude)| if *square > 0.0 { (f64::from(*magnitude) / square.sqrt()) as f32 } else { 0.0 })
        .collect();
    for (at, value) in values.iter_mut().enumerate() {
        *value *= factors.get(place(at)).copied().unwrap_or(0.0);
    }
}
