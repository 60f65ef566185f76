//! The loop against sums that are written out, and against itself on other processors and in other cuts.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

const TYPES: [ElementType; 3] = [ElementType::F32, ElementType::F16, ElementType::Bf16];

fn stored(element: ElementType, values: &[f32]) -> Vec<u8> {
    match element {
        ElementType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        ElementType::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn widened(element: ElementType, bytes: &[u8]) -> Vec<f32> {
    super::super::file::floats(element, bytes).unwrap()
}

fn portable(element: ElementType, rows: Rows<'_>, to: &mut [u8], changes: &[Summand]) -> usize {
    match element {
        ElementType::F16 => portable::change::<F16>(rows, to, changes, f32::mul_add),
        ElementType::Bf16 => portable::change::<BF16>(rows, to, changes, f32::mul_add),
        _ => portable::change::<F32>(rows, to, changes, f32::mul_add),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn changes_are_added_entry_by_entry_in_their_order(
        rows in 1_usize..20, rank in 1_usize..9, columns in 1_usize..50, kind in 0_usize..3, seed in any::<u64>(), large in any::<bool>(),
    ) {
        let element = TYPES[kind];
        let number = |at: usize| ((seed.wrapping_mul(at as u64 + 1) >> 40) % 1000) as f32 / 500.0 - 1.0;
        let left: Vec<f32> = (0..rows * rank).map(number).collect();
        let right: Vec<f32> = (0..rank * columns).map(|at| number(at + 7919)).collect();
        let delta: Vec<f32> = (0..rows * columns).map(|at| number(at + 3571)).collect();
        let start: Vec<f32> = (0..rows * columns).map(|at| number(at + 104_729)).collect();
        let from = stored(element, &start);
        let scale = if large { 1e36 } else { 0.5 };
        let changes = [Summand::Product(Product::of(&left, &right, (rank, columns), scale)), Summand::Full(delta.clone(), 0.25)];
        let whole = Rows { from: Some(&from), first: 0, columns };
        let mut out = vec![0xee; from.len()];
        let lost = change(element, whole, &mut out, &changes).unwrap();
        let result = widened(element, &out);
        prop_assert_eq!(lost, result.iter().filter(|value| !value.is_finite()).count());

        // in place, on any processor with fused sums, and in other cuts not a bit differs
        let mut in_place = from.clone();
        prop_assert_eq!(change(element, Rows { from: None, ..whole }, &mut in_place, &changes), Some(lost));
        prop_assert_eq!(&in_place, &out);
        #[cfg(target_arch = "x86_64")]
        if avx::is_there() {
            let mut other = vec![0; from.len()];
            prop_assert_eq!(portable(element, whole, &mut other, &changes), lost);
            prop_assert_eq!(&other, &out);
        }
        let mut cut = vec![0; from.len()];
        let share = ROWS * columns * element.bytes();
        for (at, (from, to)) in from.chunks(share).zip(cut.chunks_mut(share)).enumerate() {
            change(element, Rows { from: Some(from), first: at * ROWS, columns }, to, &changes).unwrap();
        }
        prop_assert_eq!(&cut, &out);

        if !large {
            let start = widened(element, &from);
            for (at, value) in result.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let product: f64 = (0..rank)
                    .map(|k| 0.5 * f64::from(left[row * rank + k]) * f64::from(right[k * columns + column]))
                    .sum();
                let wanted = f64::from(start[at]) + product + 0.25 * f64::from(delta[at]);
                let step = match element { ElementType::F32 => 1e-6, ElementType::F16 => 1e-3, _ => 8e-3 };
                prop_assert!((f64::from(*value) - wanted).abs() <= step * wanted.abs().max(1.0), "{value} {wanted}");
            }
        }
    }
}

#[test]
fn what_becomes_no_number_is_counted_in_every_type() {
    for (element, values) in [
        (ElementType::F32, [f32::NAN, f32::INFINITY, f32::MAX, 1.0]),
        (ElementType::F16, [f32::NAN, 65_520.0, 65_519.0, 1.0]),
        (ElementType::Bf16, [f32::from_bits(0x7fff_ffff), f32::MAX, 3.38e38, 1.0]),
    ] {
        for columns in [4, 20] {
            let mut wide = vec![0.0; columns];
            wide[..4].copy_from_slice(&values);
            let mut out = stored(element, &vec![0.0; columns]);
            let lost = change(element, Rows { from: None, first: 0, columns }, &mut out, &[Summand::Full(wide, 1.0)]);
            assert_eq!(lost, Some(2), "{element} {columns}");
        }
    }
}
