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

/// Seconds in the unit that leaves three digits: `1.24 s`, `83.1 ms`, `540 µs`.
pub(super) fn time(seconds: f64) -> String {
    let (value, unit) = match seconds.abs() {
        size if size >= 1.0 => (seconds, "s"),
        size if size >= 1e-3 => (seconds * 1e3, "ms"),
        0.0 => return "0".to_owned(),
        _ => (seconds * 1e6, "µs"),
    };
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
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

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let texts = [12.0, 1.239, 0.0831, 0.000_54, 0.25, 0.0].map(time);
        assert_eq!(texts, ["12.0 s", "1.24 s", "83.1 ms", "540 µs", "250 ms", "0"]);
    }
}
