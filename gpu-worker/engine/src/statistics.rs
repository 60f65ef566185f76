//! What the values of a result look like: finite or not, range, mean, spread.

use serde::Serialize;

use crate::{error::EngineError, tensor::Tensor};

/// The values of one tensor in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    /// All values.
    pub elements: usize,
    /// Values that are no numbers.
    pub nan: usize,
    /// Infinite values.
    pub infinite: usize,
    /// Smallest finite value; zero without any.
    pub min: f64,
    /// Largest finite value; zero without any.
    pub max: f64,
    /// Mean of the finite values; zero without any.
    pub mean: f64,
    /// Standard deviation of the finite values around their mean.
    pub std: f64,
}

impl Statistics {
    /// Looks at every value.
    #[must_use]
    pub fn of(values: &[f32]) -> Self {
        let nan = values.iter().filter(|value| value.is_nan()).count();
        let infinite = values.iter().filter(|value| value.is_infinite()).count();
        let finite = || values.iter().filter(|value| value.is_finite()).map(|value| f64::from(*value));
        let count = values.len() - nan - infinite;
        let per_value = if count == 0 { 0.0 } else { 1.0 / count as f64 };
        let mean = finite().sum::<f64>() * per_value;
        let variance = finite().map(|value| (value - mean).powi(2)).sum::<f64>() * per_value;
        let min = finite().reduce(f64::min).unwrap_or_default();
        let max = finite().reduce(f64::max).unwrap_or_default();
        Self { elements: values.len(), nan, infinite, min, max, mean, std: variance.sqrt() }
    }

    /// True if all values are numbers.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.nan == 0 && self.infinite == 0
    }
}

/// Refuses an output with values that are no numbers.
///
/// # Errors
/// [`EngineError::NotFinite`] with their number.
pub fn check_finite(output: &str, tensor: &Tensor) -> Result<(), EngineError> {
    let Some(values) = tensor.as_f32() else { return Ok(()) };
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let Statistics { nan, infinite, elements, .. } = Statistics::of(values);
    Err(EngineError::NotFinite { output: output.to_owned(), nan, infinite, elements })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_counted_and_left_out() {
        let found = Statistics::of(&[1.0, f32::NAN, 3.0, f32::NEG_INFINITY]);
        assert_eq!((found.elements, found.nan, found.infinite), (4, 1, 1));
        assert_eq!((found.min, found.max, found.mean, found.std), (1.0, 3.0, 2.0, 1.0));
        assert!(!found.is_finite());
        assert_eq!(Statistics::of(&[]).mean, 0.0);
    }
}
