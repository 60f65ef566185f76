//! Round numbers for an axis, and times as people read them.

/// From nought to at least `most`, in at most `marks` round steps: the step, and the axis' end.
pub(super) fn steps(most: f64, marks: u32) -> (f64, f64) {
    if !(most.is_finite() && most > 0.0) {
        return (1.0, 1.0);
    }
    let rough = most / f64::from(marks.max(1));
    let ten = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|part| part * ten).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(ten * 10.0);
    (step, (most / step).ceil() * step)
}

/// All marks of an axis.
pub(super) fn marks((step, end): (f64, f64)) -> impl Iterator<Item = f64> {
    let count = (end / step).round();
    let count = if count.is_finite() { count.clamp(0.0, 20.0) as u32 } else { 0 };
    (0..=count).map(move |index| f64::from(index) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach_the_end() {
        for most in [1e-6, 0.0013, 0.07, 1.0, 9.99, 123.0, 5e4] {
            let (step, end) = steps(most, 4);
            assert!(end >= most * 0.999 && end <= most * 2.6, "{most}: {step} {end}");
            let all: Vec<f64> = marks((step, end)).collect();
            assert!((2..=6).contains(&all.len()), "{most}: {all:?}");
        }
        for strange in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(steps(strange, 4), (1.0, 1.0));
        }
    }
}
