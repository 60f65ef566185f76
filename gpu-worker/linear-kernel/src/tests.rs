//! The loop against plain sums, and that neither cut nor type nor neighbours change a bit.

use proptest::prelude::*;

use super::*;

/// `count` numbers of −1..1 that look random and are always the same.
fn numbers(seed: usize, count: usize) -> Vec<f32> {
    let mut state = seed as u64 * 0x9e37_79b9 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// On as many threads as there are parts.
fn threads(parts: usize, part: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|scope| {
        (0..parts).for_each(|at| {
            scope.spawn(move || part(at));
        });
    });
}

fn compute(x: &[f32], weight: (Stored<'_>, usize, usize), bias: Option<&[f32]>, count: usize) -> Vec<f32> {
    let layer = Layer::new(x, weight, bias).unwrap();
    let mut out = vec![f32::NAN; layer.rows() * weight.1];
    layer.compute(&mut out, count, threads).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if can_run() { 64 } else { 0 }))]

    #[test]
    fn every_size_gives_the_plain_sums(
        rows in 1_usize..20,
        inputs in prop_oneof![1_usize..40, 250_usize..270, 500_usize..530],
        outputs in prop_oneof![1_usize..50, 120_usize..140, 250_usize..300],
        has_bias: bool,
        count in 1_usize..5,
    ) {
        let (x, weight, bias) = (numbers(1, rows * inputs), numbers(2, outputs * inputs), numbers(3, outputs));
        let bias = has_bias.then_some(bias.as_slice());
        let found = compute(&x, (Stored::F32(&weight), outputs, inputs), bias, count);
        for (row, found) in found.chunks(outputs).enumerate() {
            for (output, found) in found.iter().enumerate() {
                let pair = x[row * inputs..][..inputs].iter().zip(&weight[output * inputs..][..inputs]);
                let plain = pair.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                let plain = plain + f64::from(bias.map_or(0.0, |bias| bias[output]));
                prop_assert!((plain - f64::from(*found)).abs() < 1e-6 * (inputs as f64 + 1.0), "{plain} {found}");
            }
        }
    }

    #[test]
    fn neither_type_nor_cut_nor_other_rows_change_a_bit(
        rows in prop_oneof![1_usize..14, 96_usize..200],
        inputs in prop_oneof![1_usize..30, 250_usize..270],
        outputs in 1_usize..200,
        count in 1_usize..6,
    ) {
        let (x, values) = (numbers(4, rows * inputs), numbers(5, outputs * inputs));
        let halves: Vec<f16> = values.iter().copied().map(f16::from_f32).collect();
        let brains: Vec<bf16> = values.iter().copied().map(bf16::from_f32).collect();
        let of_halves: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
        let of_brains: Vec<f32> = brains.iter().map(|value| value.to_f32()).collect();
        let with = |x: &[f32], stored, count| compute(x, (stored, outputs, inputs), None, count);
        let whole = with(&x, Stored::F32(&of_halves), 1);
        prop_assert_eq!(&whole, &with(&x, Stored::F16(&halves), count));
        prop_assert_eq!(with(&x, Stored::F32(&of_brains), 1), with(&x, Stored::Bf16(&brains), count));
        let last = with(&x[(rows - 1) * inputs..], Stored::F16(&halves), count);
        prop_assert_eq!(&whole[(rows - 1) * outputs..], &last);
    }
}

proptest! {
    #[test]
    fn parts_cover_every_output_of_every_row_once(outputs in 0_usize..600, rows in 0_usize..500, threads in 0_usize..70) {
        let parts = Parts::of(outputs, rows, threads);
        let mut times = vec![0; outputs * rows];
        for (columns, rows) in (0..parts.count()).map(|part| parts.span(part)) {
            prop_assert!(!columns.is_empty() && columns.len() <= WIDTH && columns.start % LANES == 0);
            prop_assert!(!rows.is_empty() && rows.start % ROWS == 0);
            rows.for_each(|row| columns.clone().for_each(|column| times[row * outputs + column] += 1));
        }
        prop_assert!(times.iter().all(|times| *times == 1));
    }

    #[test]
    fn no_thread_has_much_more_to_do_than_its_share(
        groups in 1_usize..700,
        rows in prop_oneof![Just(1), 60_usize..100, 200_usize..9000],
        threads in 1_usize..65,
    ) {
        let outputs = groups * LANES;
        let parts = Parts::of(outputs, rows, threads);
        let (columns, stack) = parts.span(0);
        let most = parts.count().div_ceil(threads) * columns.len() * stack.len();
        let share = outputs * rows / threads;
        // a part is no smaller than one group of lanes and some tiles
        let least = LANES * rows.min(16 * ROWS);
        prop_assert!(most <= share + share / 2 + least, "{most} for a share of {share}");
    }
}

#[test]
fn widths_that_models_have_are_shared_evenly() {
    for threads in [2, 4, 8, 16] {
        for (outputs, rows) in [(320, 4096), (640, 1024), (1280, 256), (5120, 1024), (10_240, 256)] {
            let parts = Parts::of(outputs, rows, threads);
            let (columns, stack) = parts.span(0);
            let most = parts.count().div_ceil(threads) * columns.len() * stack.len();
            assert!(most * threads * 10 <= outputs * rows * 11, "{outputs}×{rows} on {threads}: {parts:?}");
        }
    }
}

#[test]
fn the_loop_is_tested_here() {
    if !can_run() {
        println!("skipped: this processor does not run the loop");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let values = [0.0; 12];
    let layer = |x, weight, outputs, bias| Layer::new(x, (Stored::F32(weight), outputs, 3), bias).map(|_| ());
    assert_eq!(layer(&values[..6], &values, 4, Some(&values[..4])), Ok(()));
    let length = |what, found, expected| Err(LinearError::Length { what, found, expected });
    assert_eq!(layer(&values[..7], &values, 4, None), length("x", 7, 6));
    assert_eq!(layer(&values[..6], &values[..11], 4, None), length("the matrix", 11, 12));
    assert_eq!(layer(&values[..6], &values, 4, Some(&values[..3])), length("the bias", 3, 4));
    let layer = Layer::new(&values[..6], (Stored::F32(&values), 4, 3), None).unwrap();
    assert!(matches!(layer.compute(&mut [0.0; 7], 1, |_, _| ()), Err(LinearError::Length { .. })));
    if can_run() {
        let refused = layer.compute(&mut [0.0; 8], 1, |parts, _| assert_eq!(parts, 1));
        assert_eq!(refused, Err(LinearError::Parts { done: 0, parts: 1 }));
        // a part that is computed twice is computed once
        layer.compute(&mut [0.0; 8], 1, |_, part| (0..3).for_each(|_| part(0))).unwrap();
    }
}
