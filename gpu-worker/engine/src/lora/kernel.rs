//! The one loop in which time is spent: adding a product of two thin matrices to a block of rows.
//!
//! Every entry is summed in the order of the ranks, whatever the machine, the number of threads or the cut into blocks, so
//! the same stack gives the same bytes. With fused multiply-add the last bit differs from a machine that has none.

/// Columns that are summed in registers at a time.
const LANES: usize = 16;
/// Rows that share the loads of `right`.
const ROWS: usize = 4;

/// `out += scale · left · right`; `left` is (rows × rank), `right` (rank × columns), `out` (rows × columns). Sides that do
/// not fit the slices are cut to what is there.
pub(super) fn add_product(
    out: &mut [f32],
    left: &[f32],
    right: &[f32],
    (rows, rank, columns): (usize, usize, usize),
    scale: f32,
) {
    if rank == 0 || columns == 0 {
        return;
    }
    let rows = rows.min(out.len() / columns).min(left.len() / rank);
    let rank_there = rank.min(right.len() / columns);
    let scaled: Vec<f32> = left.iter().take(rows * rank).map(|value| value * scale).collect();
    let bands = out.chunks_mut(ROWS * columns).zip(scaled.chunks(ROWS * rank));
    for (band, factors) in bands.take(rows.div_ceil(ROWS)) {
        add_band(band, factors, right, (rank, rank_there, columns));
    }
}

fn add_band(band: &mut [f32], factors: &[f32], right: &[f32], sides: (usize, usize, usize)) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features that the function is compiled for were just seen on this processor.
        #[expect(unsafe_code, reason = "a function for other processor features can only be called so")]
        unsafe {
            add_band_fused(band, factors, right, sides);
        }
        return;
    }
    add_band_with(band, factors, right, sides, |a, b, sum| a * b + sum);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_band_fused(band: &mut [f32], factors: &[f32], right: &[f32], sides: (usize, usize, usize)) {
    add_band_with(band, factors, right, sides, f32::mul_add);
}

/// One body for all processors; what it is compiled for decides how it is vectorised.
#[inline(always)]
fn add_band_with(
    band: &mut [f32],
    factors: &[f32],
    right: &[f32],
    (rank, rank_there, columns): (usize, usize, usize),
    fused: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let rows = band.len() / columns;
    let whole = columns - columns % LANES;
    for begin in (0..whole).step_by(LANES) {
        let mut sums = [[0.0_f32; LANES]; ROWS];
        for (row, sum) in sums.iter_mut().enumerate().take(rows) {
            sum.copy_from_slice(&band[row * columns + begin..][..LANES]);
        }
        for at in 0..rank_there {
            let Some(values) = right[at * columns + begin..].first_chunk::<LANES>() else { continue };
            for (row, sum) in sums.iter_mut().enumerate() {
                // rows beyond the last are summed and thrown away: the loop keeps its shape
                let factor = factors.get(row * rank + at).copied().unwrap_or(0.0);
                for lane in 0..LANES {
                    sum[lane] = fused(factor, values[lane], sum[lane]);
                }
            }
        }
        for (row, sum) in sums.iter().enumerate().take(rows) {
            band[row * columns + begin..][..LANES].copy_from_slice(sum);
        }
    }
    for row in 0..rows {
        for column in whole..columns {
            let cell = &mut band[row * columns + column];
            *cell = (0..rank_there)
                .fold(*cell, |sum, at| fused(factors[row * rank + at], right[at * columns + column], sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_product_is_added_entry_by_entry(rows in 0_usize..11, rank in 1_usize..9, columns in 1_usize..50, seed in any::<u64>()) {
            let number = |at: usize| ((seed.wrapping_mul(at as u64 + 1) >> 40) % 1000) as f32 / 500.0 - 1.0;
            let left: Vec<f32> = (0..rows * rank).map(number).collect();
            let right: Vec<f32> = (0..rank * columns).map(|at| number(at + 7919)).collect();
            let start: Vec<f32> = (0..rows * columns).map(|at| number(at + 104_729)).collect();
            let mut out = start.clone();
            add_product(&mut out, &left, &right, (rows, rank, columns), 0.5);
            for (at, value) in out.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let sum: f64 = (0..rank)
                    .map(|k| 0.5 * f64::from(left[row * rank + k]) * f64::from(right[k * columns + column]))
                    .sum();
                prop_assert!((f64::from(*value) - f64::from(start[at]) - sum).abs() < 1e-5);
            }
            // a cut into other blocks changes no bit
            let mut cut = start.clone();
            for (row, band) in cut.chunks_mut(columns).enumerate() {
                add_product(band, &left[row * rank..(row + 1) * rank], &right, (1, rank, columns), 0.5);
            }
            prop_assert_eq!(out, cut);
        }
    }
}
