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
            8 => self.run(layout, bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))),
            4 => self.run(layout, bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))),
            2 => self.run(layout, bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes))),
            _ => self.run(layout, bytes.iter().copied()),
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

    /// Whether all elements are the same bits, and there are several.
    pub(super) const fn is_constant(&self) -> bool {
        self.elements > 1 && !self.differs
    }

    /// The largest finite magnitude.
    pub(super) fn largest(&self, dtype: Dtype) -> f64 {
        let Some(layout) = layout(dtype) else { return 0.0 };
        let mantissa = (self.largest & ((1_u64 << layout.mantissa_bits) - 1)) as f64;
        let exponent = i32::try_from(self.largest >> layout.mantissa_bits).unwrap_or(0);
        let bias = (1_i32 << (layout.exponent_bits - 1)) - 1;
        let unit = 2_f64.powi(-i32::try_from(layout.mantissa_bits).unwrap_or(0));
        match exponent {
            0 => mantissa * unit * 2_f64.powi(1 - bias),
            _ => (1.0 + mantissa * unit) * 2_f64.powi(exponent - bias),
        }
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
    fn constants_are_told_over_chunks() {
        let mut found = stats(Dtype::F32, &1_f32.to_le_bytes());
        assert!(!found.is_constant());
        found.add(Dtype::F32, &1_f32.to_le_bytes());
        assert!(found.is_constant());
        found.add(Dtype::F32, &2_f32.to_le_bytes());
        assert!(!found.is_constant());
    }
}
