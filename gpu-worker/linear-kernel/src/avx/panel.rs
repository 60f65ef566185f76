//! Weights laid out for the loop: sixteen outputs of an input beside each other, as 32-bit floats.
#![expect(unsafe_code, reason = "vector loads and stores take addresses")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{BF16, F16, HALF, bytes_of};
use crate::LANES;

/// Values of a weight's row that are fetched ahead.
const AHEAD: usize = 96;

/// Writes `count` rows of a matrix as columns of a panel, widened; columns beyond them are zeros.
///
/// # Safety
/// `count` rows of `depth` values lie at `from`, `inputs` from one to the next; `to` has room for `depth` lines.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn lay_out<const STORED: u8>(
    from: *const u8,
    (count, inputs, depth): (usize, usize, usize),
    to: *mut f32,
) {
    let each = bytes_of(STORED);
    // eight inputs of sixteen outputs at a time, the rest one by one
    let square = if count == LANES { depth / HALF * HALF } else { 0 };
    // SAFETY: the caller's; what is fetched ahead is not read.
    unsafe {
        for at in (0..square).step_by(HALF) {
            for half in 0..2 {
                let row = |row: usize| from.add(((half * HALF + row) * inputs + at) * each);
                let ahead = |at: usize| row(at).wrapping_add(AHEAD * each).cast();
                (0..HALF).for_each(|at| _mm_prefetch::<_MM_HINT_T0>(ahead(at)));
                let values = [0, 1, 2, 3, 4, 5, 6, 7].map(|at| eight::<STORED>(row(at)));
                for (lane, column) in turned(values).into_iter().enumerate() {
                    _mm256_store_ps(to.add((at + lane) * LANES + half * HALF), column);
                }
            }
        }
        for at in square..depth {
            for output in 0..LANES {
                let value =
                    if output < count { single::<STORED>(from.add((output * inputs + at) * each)) } else { 0.0 };
                to.add(at * LANES + output).write(value);
            }
        }
    }
}

/// Eight stored values, widened.
///
/// # Safety
/// They lie at `from`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight<const STORED: u8>(from: *const u8) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        match STORED {
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            BF16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            _ => _mm256_loadu_ps(from.cast()),
        }
    }
}

/// One stored value, widened.
///
/// # Safety
/// It lies at `from`.
#[inline]
unsafe fn single<const STORED: u8>(from: *const u8) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        match STORED {
            F16 => from.cast::<f16>().read_unaligned().to_f32(),
            BF16 => from.cast::<bf16>().read_unaligned().to_f32(),
            _ => from.cast::<f32>().read_unaligned(),
        }
    }
}

/// Rows as columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn turned([a, b, c, d, e, f, g, h]: [__m256; HALF]) -> [__m256; HALF] {
    let pairs = |one, two| (_mm256_unpacklo_ps(one, two), _mm256_unpackhi_ps(one, two));
    let ((a, b), (c, d), (e, f), (g, h)) = (pairs(a, b), pairs(c, d), pairs(e, f), pairs(g, h));
    let fours = |one, two| (_mm256_shuffle_ps::<0x44>(one, two), _mm256_shuffle_ps::<0xee>(one, two));
    let ((a, b), (c, d), (e, f), (g, h)) = (fours(a, c), fours(b, d), fours(e, g), fours(f, h));
    let low = |one, two| _mm256_permute2f128_ps::<0x20>(one, two);
    let high = |one, two| _mm256_permute2f128_ps::<0x31>(one, two);
    [low(a, e), low(b, f), low(c, g), low(d, h), high(a, e), high(b, f), high(c, g), high(d, h)]
}
