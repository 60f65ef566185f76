//! The loop for any processor.

use half::{bf16, f16};

use super::{BF16, F16, LANES, ROWS, Rows, Summand, bytes_of};

/// As [`super::change`], with the multiplication and addition that the processor has.
pub(super) fn change<const STORED: u8>(
    rows: Rows<'_>,
    to: &mut [u8],
    changes: &[Summand],
    fused: impl Fn(f32, f32, f32) -> f32 + Copy,
) -> usize {
    let width = rows.columns * bytes_of(STORED);
    let mut lost = 0;
    for (band, to) in to.chunks_mut(ROWS * width).enumerate() {
        let from = rows.from.and_then(|from| from.get(band * ROWS * width..));
        for row in 0..to.len() / width {
            for (panel, begin) in (0..rows.columns).step_by(LANES).enumerate() {
                let end = rows.columns.min(begin + LANES);
                let range = row * width + begin * bytes_of(STORED)..row * width + end * bytes_of(STORED);
                let stored = from.unwrap_or(to).get(range.clone()).unwrap_or_default();
                let mut sums = [0.0; LANES];
                widen::<STORED>(stored, &mut sums);
                let at = (rows.first / ROWS + band, row, panel, begin);
                changes.iter().for_each(|change| add(&mut sums, change, at, rows.columns, fused));
                lost += round::<STORED>(&sums, to.get_mut(range).unwrap_or_default());
            }
        }
    }
    lost
}

fn add(
    sums: &mut [f32; LANES],
    change: &Summand,
    (band, row, panel, begin): (usize, usize, usize, usize),
    columns: usize,
    fused: impl Fn(f32, f32, f32) -> f32,
) {
    match change {
        Summand::Product(product) => {
            for (left, right) in product.band(band).iter().zip(product.panel(panel)) {
                let factor = left.get(row).copied().unwrap_or_default();
                sums.iter_mut().zip(right).for_each(|(sum, value)| *sum = fused(factor, *value, *sum));
            }
        }
        Summand::Full(delta, scale) => {
            let at = (band * ROWS + row) * columns;
            let delta = delta.get(at + begin..at + columns).unwrap_or_default();
            sums.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += scale * delta);
        }
    }
}

/// Stored values as 32-bit floats.
pub(super) fn widen<const STORED: u8>(stored: &[u8], values: &mut [f32; LANES]) {
    match STORED {
        F16 => {
            let stored = stored.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value).to_f32());
            values.iter_mut().zip(stored).for_each(|(to, value)| *to = value);
        }
        BF16 => {
            let stored = stored.as_chunks().0.iter().map(|value| bf16::from_le_bytes(*value).to_f32());
            values.iter_mut().zip(stored).for_each(|(to, value)| *to = value);
        }
        _ => {
            let stored = stored.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value));
            values.iter_mut().zip(stored).for_each(|(to, value)| *to = value);
        }
    }
}

/// Writes values down; how many are no numbers then.
pub(super) fn round<const STORED: u8>(values: &[f32; LANES], to: &mut [u8]) -> usize {
    let mut lost = 0;
    match STORED {
        F16 => to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| {
            let rounded = f16::from_f32(*value);
            lost += usize::from(!rounded.is_finite());
            *to = rounded.to_le_bytes();
        }),
        BF16 => to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| {
            let rounded = bf16::from_f32(*value);
            lost += usize::from(!rounded.is_finite());
            *to = rounded.to_le_bytes();
        }),
        _ => to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| {
            lost += usize::from(!value.is_finite());
            *to = value.to_le_bytes();
        }),
    }
    lost
}
