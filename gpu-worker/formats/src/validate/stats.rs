//! Statistics of a tensor's elements, from their bits: magnitudes of IEEE numbers order like integers.

use crate::dtype::Dtype;

/// What a tensor's elements are, counted over its chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Stats {
    pub(super) elements: u64,
    pub(super) nan: u64,
    pub(super) infinite: u64,
    pub(super) zero: u64,
    pub(super) subnormal: u64,
    /// Bits of the largest finite magnitude.
    largest: u64,
    /// Bits of the first element, and whether all others have the same.
    first: Option<u64>,
    differs: bool,
    /// Finite elements: how many, and sums of their differences from the first of them.
    finite: u64,
    origin: f64,
    sum: f64,
    squares: f64,
    smallest: f64,
    greatest: f64,
}

/// Moments and range of a tensor's finite elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// Smallest element.
    pub min: f64,
    /// Greatest element.
    pub max: f64,
}

impl std::fmt::Display for Moments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mean, std, min, max } = self;
        write!(f, "mean {mean:.3e}, std {std:.3e}, from {min:.3e} to {max:.3e}")
    }
}

/// How a float type uses its bits.
#[derive(Debug, Clone, Copy)]
struct Layout {
    bytes: usize,
    mantissa_bits: u32,
    exponent_bits: u32,
    /// Whether the largest exponent means infinity and NaN; otherwise only all ones is NaN.
    ieee: bool,
}

impl Layout {
    /// The number of these bits, infinities and NaN included.
    fn value(self, bits: u64) -> f64 {
        let mantissa_mask = (1_u64 << self.mantissa_bits) - 1;
        let exponent_mask = (1_u64 << self.exponent_bits) - 1;
        let (mantissa, exponent) = (bits & mantissa_mask, (bits >> self.mantissa_bits) & exponent_mask);
        let sign = if bits >> (self.mantissa_bits + self.exponent_bits) & 1 == 1 { -1.0 } else { 1.0 };
        let bias = (1_i32 << (self.exponent_bits - 1)) - 1;
        let power = i32::try_from(exponent).unwrap_or(0) - bias;
        let unit = 2_f64.powi(-i32::try_from(self.mantissa_bits).unwrap_or(0));
        let is_top = exponent == exponent_mask;
        sign * match (is_top, mantissa) {
            (true, 0) if self.ieee => f64::INFINITY,
            (true, mantissa) if self.ieee || mantissa == mantissa_mask => f64::NAN,
            _ if exponent == 0 => mantissa as f64 * unit * 2_f64.powi(1 - bias),
            (_, mantissa) => (1.0 + mantissa as f64 * unit) * 2_f64.powi(power),
        }
    }
}

const fn layout(dtype: Dtype) -> Option<Layout> {
    let (bytes, exponent_bits, mantissa_bits, ieee) = match dtype {
        Dtype::F64 => (8, 11, 52, true),
        Dtype::F32 => (4, 8, 23, true),
        Dtype::F16 => (2, 5, 10, true),
        Dtype::Bf16 => (2, 8, 7, true),
        Dtype::F8E5M2 => (1, 5, 2, true),
        Dtype::F8E4M3 => (1, 4, 3, false),
        _ => return None,
    };
    Some(Layout { bytes, mantissa_bits, exponent_bits, ieee })
}

/// Whether elements of this type are looked at.
pub(super) const fn is_known(dtype: Dtype) -> bool {
    layout(dtype).is_some()
}

impl Stats {
    /// Adds a chunk of whole little-endian elements.
    pub(super) fn add(&mut self, dtype: Dtype, bytes: &[u8]) {
        let Some(layout) = layout(dtype) else { return };
        match layout.bytes {
            8 => {
                let words = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
                self.run(layout, words.clone());
                self.values(words.map(f64::from_bits));
            }
            4 => {
                let words = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                self.run(layout, words.clone());
                self.values(words.map(|bits| f64::from(f32::from_bits(bits))));
            }
            2 => {
                let words = bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
                self.run(layout, words.clone());
                self.values(words.map(|bits| layout.value(u64::from(bits))));
            }
            _ => {
                self.run(layout, bytes.iter().copied());
                let table: [f64; 256] = std::array::from_fn(|bits| layout.value(u64::try_from(bits).unwrap_or(0)));
                self.values(bytes.iter().filter_map(|bits| table.get(usize::from(*bits)).copied()));
            }
        }
    }

    fn run<T: Into<u64>>(&mut self, layout: Layout, elements: impl Iterator<Item = T>) {
        let mantissa = (1_u64 << layout.mantissa_bits) - 1;
        let exponent = ((1_u64 << layout.exponent_bits) - 1) << layout.mantissa_bits;
        let magnitude = exponent | mantissa;
        let (top, smallest_normal) = (if layout.ieee { exponent } else { magnitude }, 1_u64 << layout.mantissa_bits);
        let mut sum = *self;
        for element in elements {
            let element: u64 = element.into();
            let bits = element & magnitude;
            sum.differs |= *sum.first.get_or_insert(element) != element;
            sum.elements += 1;
            sum.nan += u64::from(bits > top || (!layout.ieee && bits == top));
            sum.infinite += u64::from(layout.ieee && bits == top);
            sum.zero += u64::from(bits == 0);
            sum.subnormal += u64::from(bits != 0 && bits < smallest_normal);
            if bits < top {
                sum.largest = sum.largest.max(bits);
            }
        }
        *self = sum;
    }

    /// Adds the finite ones to the moments.
    fn values(&mut self, values: impl Iterator<Item = f64>) {
        let mut values = values.filter(|value| value.is_finite()).peekable();
        let Some(first) = values.peek().copied() else { return };
        let mut sums = *self;
        if sums.finite == 0 {
            (sums.origin, sums.smallest, sums.greatest) = (first, first, first);
        }
        for value in values {
            let off = value - sums.origin;
            sums.finite += 1;
            sums.sum += off;
            sums.squares += off * off;
            sums.smallest = sums.smallest.min(value);
            sums.greatest = sums.greatest.max(value);
        }
        *self = sums;
    }

    /// The moments; none of a tensor without finite elements.
    pub(super) fn moments(&self) -> Option<Moments> {
        let count = (self.finite > 0).then_some(self.finite as f64)?;
        let off = self.sum / count;
        let variance = (self.squares / count - off * off).max(0.0);
        Some(Moments { mean: self.origin + off, std: variance.sqrt(), min: self.smallest, max: self.greatest })
    }

    /// Whether all elements are the same bits, and there are several.
    pub(super) const fn is_constant(&self) -> bool {
        self.elements > 1 && !self.differs
    }

    /// The largest finite magnitude.
    pub(super) fn largest(&self, dtype: Dtype) -> f64 {
        layout(dtype).map_or(0.0, |layout| layout.value(self.largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(dtype: Dtype, bytes: &[u8]) -> Stats {
        let mut stats = Stats::default();
        stats.add(dtype, bytes);
        stats
    }

    #[test]
    fn every_class_of_number_is_counted() {
        let values = [0.0, -0.0, 1.0, -3.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(1)];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let found = stats(Dtype::F32, &bytes);
        assert_eq!((found.elements, found.nan, found.infinite, found.zero, found.subnormal), (8, 1, 2, 2, 1));
        assert_eq!((found.largest(Dtype::F32), found.is_constant()), (3.5, false));
    }

    #[test]
    fn narrow_types_have_their_own_limits() {
        let f16 =
            |bits: &[u16]| stats(Dtype::F16, &bits.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(f16(&[0x7BFF, 0x7C00]).largest(Dtype::F16), 65504.0);
        assert_eq!((f16(&[0x7C00, 0xFE00]).infinite, f16(&[0x7C00, 0xFE00]).nan), (1, 1));
        let f8 = stats(Dtype::F8E4M3, &[0x7E, 0x7F, 0xFF]);
        assert_eq!((f8.largest(Dtype::F8E4M3), f8.nan, f8.infinite), (448.0, 2, 0));
        assert_eq!(stats(Dtype::F64, &1e300_f64.to_le_bytes()).largest(Dtype::F64), 1e300);
        assert_eq!(stats(Dtype::Bf16, &[0x80, 0x3F, 0x80, 0x3F]).largest(Dtype::Bf16), 1.0);
    }

    #[test]
    fn moments_are_those_of_the_finite_elements() {
        let values = [1.0_f32, 2.0, f32::NAN, 3.0, 6.0, f32::INFINITY];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (first, second) = bytes.split_at(8);
        let mut found = stats(Dtype::F32, first);
        found.add(Dtype::F32, second);
        let wanted = Moments { mean: 3.0, std: 3.5_f64.sqrt(), min: 1.0, max: 6.0 };
        assert_eq!(found.moments(), Some(wanted));
        assert_eq!(stats(Dtype::F16, &[0, 0x7E]).moments(), None);
        let all = |dtype: Dtype, bits: &[u16]| {
            let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let found = stats(dtype, &bytes).moments().unwrap();
            (found.min, found.max)
        };
        assert_eq!(all(Dtype::F16, &[0x3C00, 0xC000, 0x0001]), (-2.0, 1.0));
        assert_eq!(all(Dtype::Bf16, &[0x3F80, 0xC000]), (-2.0, 1.0));
        let f8 = stats(Dtype::F8E4M3, &[0x7E, 0xFE, 0x7F]).moments().unwrap();
        assert_eq!((f8.min, f8.max, f8.mean), (-448.0, 448.0, 0.0));
        let f8 = stats(Dtype::F8E5M2, &[0x7B, 0x7C]).moments().unwrap();
        assert_eq!((f8.max, f8.std), (57344.0, 0.0));
        // a constant has no spread at all, however large it is
        let constant = stats(Dtype::F32, &1e30_f32.to_le_bytes().repeat(1000)).moments().unwrap();
        assert_eq!((constant.mean, constant.std), (f64::from(1e30_f32), 0.0));
    }

    #[test]
    fn constants_are_told_over_chunks() {
        let mut found = stats(Dtype::F32, &1_f32.to_le_bytes());
        assert!(!found.is_constant());
        found.add(Dtype::F32, &1_f32.to_le_bytes());
        assert!(found.is_constant());
        found.add(Dtype::F32, &2_f32.to_le_bytes());
        assert!(!found.is_constant());
    }
}
