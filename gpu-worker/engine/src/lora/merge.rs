//! The changed tensor: base bytes in 32-bit floats, plus the changes in their order, rounded once.

use std::num::NonZeroUsize;

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::{
    dense::{self, Delta, Shaped},
    file::{Factor, Module, floats},
    kernel::add_product,
};
use crate::tensor::{ElementType, elements};

/// Rows that are converted, changed and rounded while they are in the processor's cache.
const BLOCK_ROWS: usize = 32;

/// Why a tensor cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Weights of this type are not changed.
    #[error("weights stored as {found} cannot be changed: F32, F16 and BF16 can")]
    Type {
        /// The type.
        found: ElementType,
    },
    /// Dimensions and bytes differ, or a change has others.
    #[error("`{stem}` changes {found:?}, the weight has shape {expected:?}")]
    Shape {
        /// The module.
        stem: String,
        /// Rows and columns of the change.
        found: [usize; 2],
        /// The weight's dimensions.
        expected: Vec<usize>,
    },
    /// Values do not fit the weight's type any more.
    #[error(
        "{values} values of the changed tensor do not fit {element}; use smaller weights or a base in a wider type"
    )]
    Overflow {
        /// How many.
        values: usize,
        /// The type.
        element: ElementType,
    },
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

/// A change ready to be added.
struct Ready {
    delta: Delta,
    /// Scale times the user's weight.
    scale: f32,
}

/// The bytes of a weight of this type and shape with the changes of `modules` added, each times its strength. The order of
/// `modules` is that of the canonical stack.
///
/// # Errors
/// [`MergeError`]; nothing was changed.
pub fn merge(
    (element, shape, bytes): (ElementType, &[usize], &[u8]),
    modules: &[(&Module, f64)],
    threads: NonZeroUsize,
) -> Result<Vec<u8>, MergeError> {
    let rows = shape.first().copied().unwrap_or(1);
    let columns: usize = shape.iter().skip(1).product();
    let ready = modules
        .iter()
        .filter(|(_, strength)| *strength != 0.0)
        .filter_map(|(module, strength)| ready((element, shape, bytes), module, *strength).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    if ready.is_empty() {
        return Ok(bytes.to_vec());
    }
    let width = columns.checked_mul(element.bytes()).filter(|width| *width > 0);
    let whole = elements(shape).and_then(|count| count.checked_mul(element.bytes()));
    let Some(width) = width.filter(|_| whole == Some(bytes.len())) else {
        return Err(MergeError::Shape { stem: String::new(), found: [bytes.len(), 1], expected: shape.to_vec() });
    };
    let mut out = vec![0_u8; bytes.len()];
    let share = rows.div_ceil(threads.get()).next_multiple_of(BLOCK_ROWS).max(1);
    let lost = std::thread::scope(|scope| {
        let parts = bytes.chunks(share * width).zip(out.chunks_mut(share * width)).enumerate();
        let workers: Vec<_> = parts
            .map(|(part, (from, to))| {
                let ready = &ready;
                scope.spawn(move || rows_of(element, (from, to), (part * share, width, columns), ready))
            })
            .collect();
        // a worker that panicked lost its rows, which must not pass for a result
        workers.into_iter().map(|worker| worker.join().unwrap_or(Some(usize::MAX))).collect::<Option<Vec<usize>>>()
    });
    match lost.map(|lost| lost.into_iter().fold(0, usize::saturating_add)) {
        None => Err(MergeError::Type { found: element }),
        Some(0) => Ok(out),
        Some(values) => Err(MergeError::Overflow { values, element }),
    }
}

/// Changes some rows block by block; the number of values that do not fit, none for a type that is not changed.
fn rows_of(
    element: ElementType,
    (from, to): (&[u8], &mut [u8]),
    (first_row, width, columns): (usize, usize, usize),
    changes: &[Ready],
) -> Option<usize> {
    let mut lost = 0;
    let blocks = from.chunks(BLOCK_ROWS * width).zip(to.chunks_mut(BLOCK_ROWS * width)).enumerate();
    for (block, (from, to)) in blocks {
        let mut values = floats(element, from)?;
        let row = first_row + block * BLOCK_ROWS;
        changes.iter().for_each(|change| add(&mut values, change, row, columns));
        lost += round(element, &values, to)?;
    }
    Some(lost)
}

fn add(values: &mut [f32], change: &Ready, row: usize, columns: usize) {
    let rows = values.len() / columns.max(1);
    match &change.delta {
        Delta::Product { up, down, rank } => {
            let up = up.get(row * rank..).unwrap_or_default();
            add_product(values, up, down, (rows, *rank, columns), change.scale);
        }
        Delta::Full(delta) => {
            let delta = delta.get(row * columns..).unwrap_or_default();
            values.iter_mut().zip(delta).for_each(|(value, delta)| *value += change.scale * delta);
        }
    }
}

/// Writes values down in a type; how many became infinite on the way.
fn round(element: ElementType, values: &[f32], to: &mut [u8]) -> Option<usize> {
    let mut lost = values.iter().filter(|value| !value.is_finite()).count();
    match element {
        ElementType::F32 => {
            to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
        }
        ElementType::F16 => {
            let mut rounded = vec![f16::ZERO; values.len()];
            rounded.convert_from_f32_slice(values);
            lost = rounded.iter().filter(|value| !value.is_finite()).count();
            to.as_chunks_mut().0.iter_mut().zip(&rounded).for_each(|(to, value)| *to = value.to_le_bytes());
        }
        ElementType::Bf16 => {
            let rounded = values.iter().map(|value| bf16::from_f32(*value));
            to.as_chunks_mut().0.iter_mut().zip(rounded).for_each(|(to, value)| *to = value.to_le_bytes());
        }
        _ => return None,
    }
    Some(lost)
}

/// A module's change for this weight; none when it changes no weight.
fn ready(
    (element, shape, bytes): (ElementType, &[usize], &[u8]),
    module: &Module,
    strength: f64,
) -> Result<Option<Ready>, MergeError> {
    let Some(Shaped { delta, rows, columns }) = dense::shaped(module) else { return Ok(None) };
    let misfit = || MergeError::Shape { stem: module.stem.clone(), found: [rows, columns], expected: shape.to_vec() };
    if shape.first() != Some(&rows) || shape.iter().skip(1).product::<usize>() != columns {
        return Err(misfit());
    }
    #[expect(clippy::cast_possible_truncation, reason = "scales are written as 32-bit floats")]
    let single = |value: f64| value as f32;
    let Some(magnitude) = &module.magnitude else {
        return Ok(Some(Ready { delta, scale: single(module.scale * strength) }));
    };
    let base = floats(element, bytes).ok_or(MergeError::Type { found: element })?;
    let axis = axis(magnitude, shape).ok_or_else(misfit)?;
    let mut changed = base.clone();
    add(&mut changed, &Ready { delta, scale: single(module.scale) }, 0, columns);
    let window = columns.checked_div(shape.get(1).copied().unwrap_or(1)).unwrap_or(1).max(1);
    normalise(&mut changed, (columns, window), magnitude, axis);
    changed.iter_mut().zip(&base).for_each(|(changed, base)| *changed -= base);
    Ok(Some(Ready { delta: Delta::Full(changed), scale: single(strength) }))
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
