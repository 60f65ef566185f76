//! Elements in another float type: rounded to nearest, ties to even, and counted where they do not fit.

use half::{bf16, f16};

use crate::dtype::Dtype;

/// What was seen of the values of some tensors.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Values that are no numbers.
    pub not_numbers: u64,
    /// Finite values that became infinite.
    pub overflows: u64,
    /// The largest absolute finite value.
    pub largest: f64,
}

impl Tally {
    /// Adds what was seen elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        self.not_numbers = self.not_numbers.saturating_add(other.not_numbers);
        self.overflows = self.overflows.saturating_add(other.overflows);
        self.largest = self.largest.max(other.largest);
    }

    fn see(&mut self, value: f64, is_infinite_now: bool) {
        if value.is_nan() {
            self.not_numbers = self.not_numbers.saturating_add(1);
        } else if value.is_finite() {
            self.largest = self.largest.max(value.abs());
            self.overflows = self.overflows.saturating_add(u64::from(is_infinite_now));
        }
    }
}

/// Appends the elements of `bytes`, whole ones of type `from`, in type `to`. Types that are not both floats of 16 bits or more are
/// passed on as they are; elements that keep their type keep their bits.
pub(super) fn cast(from: Dtype, to: Dtype, bytes: &[u8], out: &mut Vec<u8>) -> Tally {
    if from == to {
        out.extend_from_slice(bytes);
    }
    let to = (from != to).then_some(to);
    match from {
        Dtype::F64 => each(bytes, to, out, f64::from_le_bytes),
        Dtype::F32 => each(bytes, to, out, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::F16 => each(bytes, to, out, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Dtype::Bf16 => each(bytes, to, out, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        _ => Tally::default(),
    }
}

/// Counts elements and, for another type, writes them.
fn each<const N: usize>(bytes: &[u8], to: Option<Dtype>, out: &mut Vec<u8>, read: impl Fn([u8; N]) -> f64) -> Tally {
    let mut tally = Tally::default();
    out.reserve(if to.is_some() { bytes.len() } else { 0 });
    for element in bytes.as_chunks::<N>().0 {
        let value = read(*element);
        let is_infinite = to.is_some_and(|to| put(value, to, out));
        tally.see(value, is_infinite);
    }
    tally
}

/// Writes a value down; whether it is infinite there.
fn put(value: f64, to: Dtype, out: &mut Vec<u8>) -> bool {
    match to {
        Dtype::F16 => {
            let value = f16::from_f32(odd(value));
            out.extend_from_slice(&value.to_le_bytes());
            value.is_infinite()
        }
        Dtype::Bf16 => {
            let value = bf16::from_f32(odd(value));
            out.extend_from_slice(&value.to_le_bytes());
            value.is_infinite()
        }
        Dtype::F32 => {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest, as the type asks")]
            let value = value as f32;
            out.extend_from_slice(&value.to_le_bytes());
            value.is_infinite()
        }
        _ => {
            out.extend_from_slice(&value.to_le_bytes());
            value.is_infinite()
        }
    }
}

/// The value in single precision, inexact ones with an odd last bit: rounding the result once more, to a narrower type, then gives what
/// rounding the value itself gives.
fn odd(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "what is lost is looked at")]
    let near = value as f32;
    let back = f64::from(near);
    if near.is_infinite() || near.is_nan() || back == value {
        return near;
    }
    let inner = if back.abs() > value.abs() { near.to_bits().saturating_sub(1) } else { near.to_bits() };
    f32::from_bits(inner | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(values: &[f32], to: Dtype) -> (Vec<u8>, Tally) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut out = Vec::new();
        let tally = cast(Dtype::F32, to, &bytes, &mut out);
        (out, tally)
    }

    #[test]
    fn values_round_to_even_and_what_does_not_fit_is_counted() {
        // 65519 rounds to the largest half, 65520 to infinity; subnormals stay
        let (out, tally) = narrowed(&[65_519.0, 65_520.0, -1e6, 6e-8, f32::NAN, f32::INFINITY], Dtype::F16);
        let halves: Vec<f16> = out.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
        assert_eq!((halves[0], halves[1], halves[3]), (f16::MAX, f16::INFINITY, f16::from_bits(1)));
        assert_eq!((tally.overflows, tally.not_numbers, tally.largest), (2, 1, 1e6));
        // a tie, and the next number above it, which a cut of the last bits would take for the tie
        let tie = 1.0 + 1.0 / 2048.0;
        let (out, _) = narrowed(&[tie, f32::from_bits(tie.to_bits() + 1)], Dtype::F16);
        assert_eq!(out, [0x00, 0x3c, 0x01, 0x3c]);
    }

    fn brains(values: &[f32]) -> (Vec<u16>, Tally) {
        let (out, tally) = narrowed(values, Dtype::Bf16);
        (out.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect(), tally)
    }

    #[test]
    fn brain_floats_round_to_even_down_to_subnormals_and_up_to_infinity() {
        // 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷: the even one is 1; the next number above it and the next tie go up
        let tie: f32 = 1.0 + 1.0 / 256.0;
        let above = f32::from_bits(tie.to_bits() + 1);
        assert_eq!(brains(&[tie, above, -tie, 1.0 + 3.0 / 256.0]).0, [0x3f80, 0x3f81, 0xbf80, 0x3f82]);
        // the least is 2⁻¹³³: half of it goes to zero, half as much more to two of it; signs stay
        let least = f32::from_bits(0x0001_0000);
        assert_eq!(brains(&[least, least / 2.0, -least / 2.0, least * 1.5, f32::from_bits(1)]).0, [1, 0, 0x8000, 2, 0]);
        // the tie above the largest is infinite, what lies below it is the largest
        let last = f32::from_bits(0x7f7f_7fff);
        let (out, tally) = brains(&[last, f32::from_bits(0x7f7f_8000), f32::MIN, f32::INFINITY]);
        assert_eq!((out.as_slice(), tally.overflows), (&[0x7f7f, 0x7f80, 0xff80, 0x7f80][..], 2));
        assert_eq!(tally.largest, f64::from(f32::MAX));
    }

    #[test]
    fn doubles_beyond_single_precision_are_counted() {
        let values = [f64::from(f32::MAX), 3.41e38, -1e300, f64::INFINITY, 1e-60];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut out = Vec::new();
        let tally = cast(Dtype::F64, Dtype::F32, &bytes, &mut out);
        let singles: Vec<f32> = out.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(singles, [f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY, 0.0]);
        assert_eq!((tally.overflows, tally.largest), (2, 1e300));
        // a little above half of the least brain float is no tie, though the nearest single precision is
        let mut out = Vec::new();
        let least = f64::from(f32::from_bits(0x0001_0000));
        let bytes: Vec<u8> = [least / 2.0, least / 2.0 + 1e-50].iter().flat_map(|value| value.to_le_bytes()).collect();
        cast(Dtype::F64, Dtype::Bf16, &bytes, &mut out);
        assert_eq!(out, [0, 0, 1, 0]);
    }

    #[test]
    fn doubles_are_rounded_once() {
        // nearest single precision is the tie of half precision, the value lies above it
        let value = 1.0 + 1.0 / 2048.0 + 1e-12;
        let mut out = Vec::new();
        cast(Dtype::F64, Dtype::F16, &f64::to_le_bytes(value), &mut out);
        assert_eq!(out, [0x01, 0x3c]);
    }

    #[test]
    fn what_keeps_its_type_keeps_its_bits() {
        let bytes = [0x01, 0x7e, 0xff, 0xff, 0x00, 0x80];
        let mut out = Vec::new();
        let tally = cast(Dtype::F16, Dtype::F16, &bytes, &mut out);
        assert_eq!((out.as_slice(), tally.not_numbers), (&bytes[..], 2));
    }
}
