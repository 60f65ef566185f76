//! Seconds as people read them.

/// Seconds in the unit that leaves three digits: `1.24 s`, `83.1 ms`, `540 µs`.
pub fn seconds_text(seconds: f64) -> String {
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
    fn times_have_three_digits_and_a_unit() {
        let texts = [12.0, 1.239, 0.0831, 0.000_54, 0.25, 0.0].map(seconds_text);
        assert_eq!(texts, ["12.0 s", "1.24 s", "83.1 ms", "540 µs", "250 ms", "0"]);
    }
}
