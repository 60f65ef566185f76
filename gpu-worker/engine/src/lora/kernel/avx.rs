//! The loop for x86 processors with fused multiply-add on eight lanes: a tile of six rows and sixteen columns stays in registers
//! from the stored values to the rounded ones.
#![expect(unsafe_code, reason = "vector loads and stores take addresses")]

use std::arch::x86_64::*;

use super::{BF16, F16, LANES, ROWS, Rows, Summand, bytes_of};

/// Half of a row of a tile.
const HALF: usize = LANES / 2;

type Tile = [[__m256; 2]; ROWS];

/// Whether this processor runs [`change`].
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// As [`super::change`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn change<const STORED: u8>(rows: Rows<'_>, to: &mut [u8], changes: &[Summand]) -> usize {
    let width = rows.columns * bytes_of(STORED);
    let mut lost = 0;
    for (band, to) in to.chunks_mut(ROWS * width).enumerate() {
        let from = rows.from.and_then(|from| from.get(band * ROWS * width..));
        let band = rows.first / ROWS + band;
        let mut lanes = _mm_setzero_si128();
        for panel in 0..rows.columns.div_ceil(LANES) {
            let mut tile = [[_mm256_setzero_ps(); 2]; ROWS];
            let at = Place { panel, columns: rows.columns, width, each: bytes_of(STORED) };
            let whole = at.is_whole(from.unwrap_or(to)) && at.is_whole(to);
            if whole {
                // SAFETY: six rows of sixteen values lie there.
                unsafe { load_whole::<STORED>(&mut tile, from.unwrap_or(to).as_ptr().add(at.begin()), width) };
            } else {
                load::<STORED>(&mut tile, from.unwrap_or(to), at);
            }
            for change in changes {
                match change {
                    Summand::Product(product) => add_product(&mut tile, product.band(band), product.panel(panel)),
                    Summand::Full(delta, scale) => {
                        let delta = delta.get(band * ROWS * rows.columns..).unwrap_or_default();
                        add_full(&mut tile, delta, at, *scale);
                    }
                }
            }
            if whole && STORED != super::F32 {
                // SAFETY: as above.
                lanes = unsafe { store_whole::<STORED>(&tile, to.as_mut_ptr().add(at.begin()), width, lanes) };
            } else {
                lost += store::<STORED>(&tile, to, at);
            }
        }
        lost += counted(lanes);
    }
    lost
}

/// Sixteen-bit counters added up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn counted(lanes: __m128i) -> usize {
    let mut counts = [0_u16; HALF];
    // SAFETY: eight values of two bytes have room there.
    unsafe { _mm_storeu_si128(counts.as_mut_ptr().cast(), lanes) };
    counts.iter().map(|count| usize::from(*count)).sum()
}

/// As [`load`], of a tile of which every row and column is there.
///
/// # Safety
/// From `from` on lie six rows, `width` bytes from one to the next, of sixteen values each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_whole<const STORED: u8>(tile: &mut Tile, from: *const u8, width: usize) {
    for (row, sums) in tile.iter_mut().enumerate() {
        // SAFETY: the caller's.
        let stored = unsafe { std::slice::from_raw_parts(from.add(row * width), LANES * bytes_of(STORED)) };
        *sums = widen::<STORED>(stored);
    }
}

/// As [`store`], of a tile of sixteen-bit values of which every row and column is there; counters of values that are no numbers.
///
/// # Safety
/// From `to` on six rows, `width` bytes from one to the next, have room for sixteen values each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store_whole<const STORED: u8>(tile: &Tile, to: *mut u8, width: usize, mut lanes: __m128i) -> __m128i {
    let exponent = _mm_set1_epi16(if STORED == F16 { 0x7c00 } else { 0x7f80 });
    for (row, sums) in tile.iter().enumerate() {
        for (half, sums) in sums.iter().enumerate() {
            let rounded =
                if STORED == F16 { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(*sums) } else { to_bf16(*sums) };
            let found = _mm_cmpeq_epi16(_mm_and_si128(rounded, exponent), exponent);
            // they stop at their largest value: however long a row is, what was found is never none
            lanes = _mm_adds_epu16(lanes, _mm_srli_epi16::<15>(found));
            // SAFETY: the caller's.
            unsafe { _mm_storeu_si128(to.add(row * width + half * LANES).cast(), rounded) };
        }
    }
    lanes
}

/// Where a tile lies in its six rows.
#[derive(Clone, Copy)]
struct Place {
    panel: usize,
    columns: usize,
    /// Bytes of a row.
    width: usize,
    /// Bytes of a value.
    each: usize,
}

impl Place {
    /// The first column, and how many of the sixteen there are.
    fn span(self) -> (usize, usize) {
        let begin = self.panel * LANES;
        (begin, (self.columns - begin).min(LANES))
    }

    /// The byte in the rows at which it begins.
    fn begin(self) -> usize {
        self.panel * LANES * self.each
    }

    /// Whether six rows of sixteen columns lie within these bytes.
    fn is_whole(self, bytes: &[u8]) -> bool {
        self.span().1 == LANES && bytes.len() >= (ROWS - 1) * self.width + self.begin() + LANES * self.each
    }
}

/// What one rank adds to rows whose sums these are.
macro_rules! add_rank {
    ($left:ident, $low:ident, $high:ident, $($row:literal: $a:ident $b:ident),+) => {$(
        let factor = _mm256_set1_ps($left[$row]);
        $a = _mm256_fmadd_ps(factor, $low, $a);
        $b = _mm256_fmadd_ps(factor, $high, $b);
    )+};
}

/// Twelve sums with names of their own: those of an array the compiler moves to the stack and back with each rank.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_product(tile: &mut Tile, band: &[[f32; ROWS]], panel: &[[f32; LANES]]) {
    let [[mut a, mut b], [mut c, mut d], [mut e, mut f], [mut g, mut h], [mut i, mut j], [mut k, mut l]] = *tile;
    for (left, right) in band.iter().zip(panel) {
        // SAFETY: sixteen values lie there.
        let (low, high) = unsafe { (_mm256_loadu_ps(right.as_ptr()), _mm256_loadu_ps(right.as_ptr().add(HALF))) };
        add_rank!(left, low, high, 0: a b, 1: c d, 2: e f, 3: g h, 4: i j, 5: k l);
    }
    *tile = [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]];
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_full(tile: &mut Tile, delta: &[f32], at: Place, scale: f32) {
    let (begin, count) = at.span();
    let scale = _mm256_set1_ps(scale);
    for (row, sums) in tile.iter_mut().enumerate() {
        let from = row * at.columns + begin;
        let mut values = [0.0_f32; LANES];
        let there = delta.get(from..from + count).unwrap_or_default();
        values.iter_mut().zip(there).for_each(|(to, value)| *to = *value);
        // SAFETY: sixteen values lie there.
        let (low, high) = unsafe { (_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(HALF))) };
        // not fused: the sum is the same on every machine
        sums[0] = _mm256_add_ps(sums[0], _mm256_mul_ps(scale, low));
        sums[1] = _mm256_add_ps(sums[1], _mm256_mul_ps(scale, high));
    }
}

/// Reads a tile; rows and columns beyond the last are zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load<const STORED: u8>(tile: &mut Tile, from: &[u8], at: Place) {
    let (begin, count) = at.span();
    for (row, sums) in tile.iter_mut().enumerate() {
        let begin = row * at.width + begin * at.each;
        if let Some(stored) = from.get(begin..begin + LANES * at.each).filter(|_| count == LANES) {
            *sums = widen::<STORED>(stored);
        } else if let Some(stored) = from.get(begin..begin + count * at.each) {
            let mut padded = [0; LANES * 4];
            padded.iter_mut().zip(stored).for_each(|(to, byte)| *to = *byte);
            *sums = widen::<STORED>(&padded);
        }
    }
}

/// Writes the rows and columns of a tile that there are; how many values are no numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store<const STORED: u8>(tile: &Tile, to: &mut [u8], at: Place) -> usize {
    let (begin, count) = at.span();
    let mut lost = 0;
    for (row, sums) in tile.iter().enumerate() {
        let begin = row * at.width + begin * at.each;
        if let Some(to) = to.get_mut(begin..begin + LANES * at.each).filter(|_| count == LANES) {
            lost += round::<STORED>(sums, to);
        } else if let Some(to) = to.get_mut(begin..begin + count * at.each) {
            let mut padded = [0; LANES * 4];
            // what lies beyond the last column is a zero, which no sum makes anything else of
            lost += round::<STORED>(sums, &mut padded);
            to.iter_mut().zip(padded).for_each(|(to, byte)| *to = byte);
        }
    }
    lost
}

/// The sixteen values at the beginning of `stored`, which are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<const STORED: u8>(stored: &[u8]) -> [__m256; 2] {
    let Some(stored) = stored.get(..LANES * bytes_of(STORED)) else { return [_mm256_setzero_ps(); 2] };
    let (low, high) = stored.split_at(stored.len() / 2);
    // SAFETY: each half has eight values of the type's width.
    unsafe {
        match STORED {
            F16 => [low, high].map(|half| _mm256_cvtph_ps(_mm_loadu_si128(half.as_ptr().cast()))),
            BF16 => [low, high].map(|half| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(half.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }),
            _ => [low, high].map(|half| _mm256_loadu_ps(half.as_ptr().cast())),
        }
    }
}

/// Writes sixteen values to the beginning of `to`, where room for them is; how many are no numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn round<const STORED: u8>(sums: &[__m256; 2], to: &mut [u8]) -> usize {
    let Some(to) = to.get_mut(..LANES * bytes_of(STORED)) else { return 0 };
    let (low, high) = to.split_at_mut(LANES / 2 * bytes_of(STORED));
    let mut lost = 0;
    for (sums, to) in sums.iter().zip([low, high]) {
        // SAFETY: eight values of the type's width have room there.
        lost += unsafe {
            match STORED {
                F16 => {
                    let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(*sums);
                    _mm_storeu_si128(to.as_mut_ptr().cast(), rounded);
                    no_numbers_of_16(rounded, 0x7c00)
                }
                BF16 => {
                    let rounded = to_bf16(*sums);
                    _mm_storeu_si128(to.as_mut_ptr().cast(), rounded);
                    no_numbers_of_16(rounded, 0x7f80)
                }
                _ => {
                    _mm256_storeu_ps(to.as_mut_ptr().cast(), *sums);
                    no_numbers_of_32(*sums)
                }
            }
        };
    }
    lost
}

/// To the nearest, ties to even; what is no number stays none.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn to_bf16(values: __m256) -> __m128i {
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let rounded = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
    let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(rounded, rounded));
    _mm256_castsi256_si128(packed)
}

/// Values whose exponent has all bits set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn no_numbers_of_16(values: __m128i, exponent: i16) -> usize {
    let exponent = _mm_set1_epi16(exponent);
    let found = _mm_movemask_epi8(_mm_cmpeq_epi16(_mm_and_si128(values, exponent), exponent));
    found.count_ones() as usize / 2
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn no_numbers_of_32(values: __m256) -> usize {
    let exponent = _mm256_set1_epi32(0x7f80_0000);
    let found = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(values), exponent), exponent);
    _mm256_movemask_ps(_mm256_castsi256_ps(found)).count_ones() as usize
}
