//! What is wrong with arguments: every fault with a JSON pointer to its field, and the checks that kinds have in common.

use std::{fmt::Display, ops::RangeInclusive};

/// One fault of the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer into the arguments.
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

/// Collects faults.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Fault { pointer: pointer.into(), detail: detail.into() });
    }

    /// A number within bounds. NaN is within none.
    pub(super) fn range<T: PartialOrd + Display>(&mut self, pointer: &str, value: T, bounds: &RangeInclusive<T>) {
        if !bounds.contains(&value) {
            self.add(pointer, format!("`{value}` is not {} to {}", bounds.start(), bounds.end()));
        }
    }

    /// A side of an image or tile in pixels: within bounds and a multiple of 8, the pixels of one latent.
    pub(super) fn side(&mut self, pointer: &str, pixels: u32, bounds: &RangeInclusive<u32>) {
        if !pixels.is_multiple_of(8) {
            self.add(pointer, format!("`{pixels}` is not a multiple of 8"));
        }
        self.range(pointer, pixels, bounds);
    }

    /// A text of at most so many bytes. Postgres stores no NUL, neither in text nor in JSON.
    pub(super) fn text(&mut self, pointer: &str, text: &str, most_bytes: usize) {
        if text.len() > most_bytes {
            self.add(pointer, format!("{} bytes, more than {most_bytes}", text.len()));
        }
        if text.contains('\0') {
            self.add(pointer, "holds a NUL character");
        }
    }

    /// Texts, at least one and at most so many.
    pub(super) fn texts(&mut self, pointer: &str, texts: &[String], most: usize, most_bytes: usize) {
        if texts.is_empty() {
            self.add(pointer, "give at least one");
        }
        if texts.len() > most {
            self.add(pointer, format!("{} texts, more than {most}", texts.len()));
        }
        for (index, text) in texts.iter().enumerate().take(most) {
            self.text(&format!("{pointer}/{index}"), text, most_bytes);
        }
    }

    pub(super) fn end(self) -> Vec<Fault> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_their_ends_and_nan_is_outside() {
        let faults = |value: f64| {
            let mut faults = Faults::default();
            faults.range("/scale", value, &(0.0..=1.0));
            faults.end().len()
        };
        assert_eq!([0.0, 1.0, 1.01, -0.01, f64::NAN].map(faults), [0, 0, 1, 1, 1]);
        let mut side = Faults::default();
        side.side("/width", 65, &(64..=128));
        side.side("/width", 136, &(64..=128));
        assert_eq!(side.end().len(), 2);
    }
}
