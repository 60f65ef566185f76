//! Typed reading of a `config.json`: absent and null fields have the library's default, wrong ones are named.

use serde_json::{Map, Value};

use crate::{error::EngineError, weights::TensorFacts};

/// Numbers above this in a config are taken for a mistake: widths and layers of real models are far below.
const LARGEST: u64 = 1 << 24;

/// More halvings of an image than any model has; sides are shifted by them.
pub(crate) const MOST_LEVELS: usize = 16;
/// More layers of one sort than any model has: a graph has some nodes for each.
const MOST_LAYERS: usize = 256;

/// A config that cannot be read: the field (or the tensor that shows it), what it says, what may stand there.
pub(crate) fn wrong(
    architecture: &'static str,
    field: impl Into<String>,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> EngineError {
    EngineError::Config { architecture, field: field.into(), found: found.into(), expected: expected.into() }
}

/// One side of a tensor that tells a setting where there is no config.
///
/// # Errors
/// When the tensor is missing, or has no such side, or one of nothing.
pub(crate) fn side(
    architecture: &'static str,
    facts: &TensorFacts,
    name: &str,
    axis: usize,
) -> Result<usize, EngineError> {
    let Some(shape) = facts.shape(name) else {
        return Err(wrong(architecture, name, "absent", "a tensor, where there is no config"));
    };
    let side = shape.get(axis).copied().filter(|side| *side > 0);
    side.ok_or_else(|| wrong(architecture, name, format!("of shape {shape:?}"), format!("of rank above {axis}")))
}

/// A config under reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'j> {
    model: &'static str,
    values: &'j Map<String, Value>,
}

impl<'j> Settings<'j> {
    /// The config of `model` (for messages).
    pub(crate) fn new(model: &'static str, json: &'j Value) -> Result<Self, EngineError> {
        let values = json.as_object();
        values.map(|values| Self { model, values }).ok_or_else(|| wrong(model, "config.json", "no object", "an object"))
    }

    /// The value of a field as it is written, null included.
    pub(crate) fn raw(&self, field: &str) -> Option<&'j Value> {
        self.values.get(field)
    }

    /// The value of a field; null counts as absent.
    pub(crate) fn find(&self, field: &str) -> Option<&'j Value> {
        self.raw(field).filter(|value| !value.is_null())
    }

    pub(crate) fn missing(&self, field: &str) -> EngineError {
        wrong(self.model, field, "absent", "a value")
    }

    /// The field holds what cannot be meant or is not built; `expected` is what may stand there.
    pub(crate) fn wrong(&self, field: &str, value: &Value, expected: impl Into<String>) -> EngineError {
        wrong(self.model, field, value.to_string(), expected)
    }

    /// A value as a whole number from 1 on.
    pub(crate) fn as_positive(&self, field: &str, value: &Value) -> Result<usize, EngineError> {
        let number = value.as_u64().filter(|number| (1..=LARGEST).contains(number));
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| self.wrong(field, value, "a whole number from 1 on"))
    }

    pub(crate) fn positive(&self, field: &str, default: usize) -> Result<usize, EngineError> {
        self.find(field).map_or(Ok(default), |value| self.as_positive(field, value))
    }

    /// A number of layers: bounded, since a graph grows with it.
    pub(crate) fn layers(&self, field: &str, default: usize) -> Result<usize, EngineError> {
        self.find(field).map_or(Ok(default), |value| self.as_layers(field, value))
    }

    /// A value as a number of layers.
    fn as_layers(&self, field: &str, value: &Value) -> Result<usize, EngineError> {
        let number = self.as_positive(field, value)?;
        if number <= MOST_LAYERS { Ok(number) } else { Err(self.wrong(field, value, format!("at most {MOST_LAYERS}"))) }
    }

    /// A number of layers for each level.
    pub(crate) fn layers_per_level(&self, field: &str, default: &[usize]) -> Result<Vec<usize>, EngineError> {
        self.list(field, default, |value| self.as_layers(field, value))
    }

    /// A whole number from 1 on that must be there.
    pub(crate) fn get_positive(&self, field: &str) -> Result<usize, EngineError> {
        let value = self.find(field).ok_or_else(|| self.missing(field))?;
        self.as_positive(field, value)
    }

    pub(crate) fn float(&self, field: &str, default: f32) -> Result<f32, EngineError> {
        let Some(value) = self.find(field) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && number.abs() <= f64::from(f32::MAX));
        // the value nearest to the one written
        number.map(|number| number as f32).ok_or_else(|| self.wrong(field, value, "a number"))
    }

    pub(crate) fn flag(&self, field: &str, default: bool) -> Result<bool, EngineError> {
        let Some(value) = self.find(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(field, value, "true or false"))
    }

    /// One number for all `count` levels, or one for each.
    pub(crate) fn per_level(&self, field: &str, default: usize, count: usize) -> Result<Vec<usize>, EngineError> {
        match self.find(field) {
            Some(Value::Array(values)) if values.len() == count => {
                values.iter().map(|value| self.as_positive(field, value)).collect()
            }
            Some(value @ Value::Array(_)) => {
                Err(self.wrong(field, value, format!("one number, or one for each of {count} levels")))
            }
            Some(value) => Ok(vec![self.as_positive(field, value)?; count]),
            None => Ok(vec![default; count]),
        }
    }

    /// A list of whole numbers from 1 on, one for each level.
    pub(crate) fn positives(&self, field: &str, default: &[usize]) -> Result<Vec<usize>, EngineError> {
        self.list(field, default, |value| self.as_positive(field, value))
    }

    fn list(
        &self,
        field: &str,
        default: &[usize],
        read: impl Fn(&'j Value) -> Result<usize, EngineError>,
    ) -> Result<Vec<usize>, EngineError> {
        match self.find(field) {
            None => Ok(default.to_vec()),
            Some(Value::Array(values)) if (1..=MOST_LEVELS).contains(&values.len()) => {
                values.iter().map(read).collect()
            }
            Some(Value::Array(values)) => {
                let found = format!("a list of {}", values.len());
                Err(wrong(self.model, field, found, format!("1 to {MOST_LEVELS} whole numbers from 1 on")))
            }
            Some(value) => {
                Err(self.wrong(field, value, format!("a list of 1 to {MOST_LEVELS} whole numbers from 1 on")))
            }
        }
    }

    /// Refuses a list with anything in it but `known`.
    pub(crate) fn each(&self, field: &str, known: &str) -> Result<(), EngineError> {
        let Some(value) = self.find(field) else { return Ok(()) };
        let fits = value.as_array().is_some_and(|list| list.iter().all(|value| value.as_str() == Some(known)));
        if fits { Ok(()) } else { Err(self.wrong(field, value, format!("a list of {known}"))) }
    }

    /// Refuses any value but the listed ones, the first of which is the default.
    pub(crate) fn only(&self, field: &str, supported: &[Value]) -> Result<(), EngineError> {
        let Some(value) = self.find(field) else { return Ok(()) };
        let same = |known: &Value| known == value || (known.as_f64().is_some() && known.as_f64() == value.as_f64());
        if supported.iter().any(same) {
            return Ok(());
        }
        let list: Vec<String> = supported.iter().map(Value::to_string).collect();
        let list = if list.is_empty() { "null".to_owned() } else { list.join(", ") };
        Err(self.wrong(field, value, list))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_named_and_null_is_absent() {
        let json = json!({ "a": 3, "b": null, "c": -1, "d": [1, 2], "e": "x", "f": 1.0 });
        let settings = Settings::new("test", &json).unwrap();
        assert_eq!(settings.positive("a", 1).unwrap(), 3);
        assert_eq!(settings.positive("b", 7).unwrap(), 7);
        let negative = settings.positive("c", 1).unwrap_err();
        assert_eq!(negative.to_string(), "test: `c` is -1, a whole number from 1 on is expected");
        assert_eq!(settings.per_level("d", 1, 2).unwrap(), [1, 2]);
        assert!(settings.per_level("d", 1, 3).is_err());
        assert_eq!(settings.per_level("a", 1, 2).unwrap(), [3, 3]);
        assert!(settings.only("e", &[json!("y")]).is_err());
        assert!(settings.only("f", &[json!(1)]).is_ok());
        assert!(settings.get_positive("b").unwrap_err().to_string().contains("`b` is absent"));
    }

    #[test]
    fn layers_and_levels_are_bounded() {
        let json = json!({ "a": 256, "b": 16_000_000, "c": vec![1; 16], "d": vec![1; 17], "e": [1, 257], "f": [] });
        let settings = Settings::new("test", &json).unwrap();
        assert_eq!(settings.layers("a", 1).unwrap(), 256);
        assert_eq!(settings.layers("b", 1).unwrap_err().to_string(), "test: `b` is 16000000, at most 256 is expected");
        assert_eq!(settings.positives("c", &[]).unwrap().len(), 16);
        for list in ["d", "e", "f"] {
            assert!(settings.layers_per_level(list, &[]).is_err(), "{list}");
        }
    }
}
