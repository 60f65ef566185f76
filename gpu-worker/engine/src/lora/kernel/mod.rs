//! The one loop in which time is spent: stored values widened to 32-bit floats, the changes added, rounded once and written.
//!
//! Every entry is summed by itself, the changes in their order and each product in the order of its ranks, whatever the
//! machine, the number of threads or the cut into blocks: the same stack gives the same bytes. With fused multiply-add the
//! last bit differs from a machine that has none.

#[cfg(target_arch = "x86_64")]
mod avx;
mod portable;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use stream::stream;

use crate::tensor::ElementType;

/// Columns that are summed in registers at a time.
pub(super) const LANES: usize = 16;
/// Rows that share the loads of the right factor.
pub(super) const ROWS: usize = 6;

/// Sixteen columns of the right factor, rank by rank.
type Panel = [[f32; LANES]];
/// Six rows of the left factor, rank by rank.
type Band = [[f32; ROWS]];

/// A product of two thin matrices, laid out as the loop reads it: every factor lies where the one before it ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product {
    rank: usize,
    bands: Vec<[f32; ROWS]>,
    panels: Vec<[f32; LANES]>,
}

impl Product {
    /// `scale · left · right`; `left` is (rows × rank), `right` (rank × columns). The scale goes to the left factor.
    pub(crate) fn of(left: &[f32], right: &[f32], (rank, columns): (usize, usize), scale: f32) -> Self {
        let rank = rank.max(1);
        let rows = left.len() / rank;
        let mut bands = vec![[0.0; ROWS]; rows.div_ceil(ROWS) * rank];
        for (row, values) in left.chunks_exact(rank).enumerate() {
            let band = bands.iter_mut().skip(row / ROWS * rank);
            band.zip(values).for_each(|(band, value)| band[row % ROWS] = value * scale);
        }
        let mut panels = vec![[0.0; LANES]; columns.div_ceil(LANES) * rank];
        for (at, values) in right.chunks_exact(columns.max(1)).enumerate().take(rank) {
            for (panel, values) in values.chunks(LANES).enumerate() {
                if let Some(to) = panels.get_mut(panel * rank + at).and_then(|to| to.get_mut(..values.len())) {
                    to.copy_from_slice(values);
                }
            }
        }
        Self { rank, bands, panels }
    }

    fn band(&self, band: usize) -> &Band {
        self.bands.get(band * self.rank..(band + 1) * self.rank).unwrap_or_default()
    }

    fn panel(&self, panel: usize) -> &Panel {
        self.panels.get(panel * self.rank..(panel + 1) * self.rank).unwrap_or_default()
    }
}

/// What is added to a weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Summand {
    /// A product, scaled.
    Product(Product),
    /// Every entry, row by row, each times the scale.
    Full(Vec<f32>, f32),
}

/// Rows of a weight: where they come from, and which they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Their bytes; none when they are where the changed ones go.
    pub(crate) from: Option<&'a [u8]>,
    /// The first of them; a multiple of [`ROWS`].
    pub(crate) first: usize,
    /// Entries of a row.
    pub(crate) columns: usize,
}

/// Writes rows with the changes added to `to`; how many values do not fit the type or are no numbers. None for a type that is
/// not changed. Both sides have the same length, whole rows.
pub(crate) fn change(element: ElementType, rows: Rows<'_>, to: &mut [u8], changes: &[Summand]) -> Option<usize> {
    match element {
        ElementType::F32 => Some(change_as::<F32>(rows, to, changes)),
        ElementType::F16 => Some(change_as::<F16>(rows, to, changes)),
        ElementType::Bf16 => Some(change_as::<BF16>(rows, to, changes)),
        _ => None,
    }
}

/// The stored types, as constants that the loop is compiled for.
const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Bytes of a stored value.
const fn bytes_of(stored: u8) -> usize {
    if stored == F32 { 4 } else { 2 }
}

fn change_as<const STORED: u8>(rows: Rows<'_>, to: &mut [u8], changes: &[Summand]) -> usize {
    if rows.columns == 0 || rows.from.is_some_and(|from| from.len() != to.len()) {
        return 0;
    }
    #[cfg(target_arch = "x86_64")]
    if avx::is_there() {
        // SAFETY: the features that the function is compiled for were just seen on this processor.
        #[expect(unsafe_code, reason = "a function for other processor features can only be called so")]
        return unsafe { avx::change::<STORED>(rows, to, changes) };
    }
    portable::change::<STORED>(rows, to, changes, |a, b, sum| a * b + sum)
}

/// `left · right` as it is.
pub(super) fn product(left: &[f32], right: &[f32], rank: usize) -> Vec<f32> {
    let rank = rank.max(1);
    let (rows, columns) = (left.len() / rank, right.len() / rank);
    let mut out = vec![0_u8; rows * columns * size_of::<f32>()];
    let product = Summand::Product(Product::of(left, right, (rank, columns), 1.0));
    change(ElementType::F32, Rows { from: None, first: 0, columns }, &mut out, &[product]);
    out.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
