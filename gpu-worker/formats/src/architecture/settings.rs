//! Reading an architecture's config: every number bounded, and whatever is not understood refused.

use serde_json::{Map, Value};

/// The largest width, depth or count that is believed.
const NUMBER_LIMIT: u64 = 1 << 20;
/// The most levels, and layers of a level.
const LIST_LIMIT: usize = 64;

/// The settings of one component.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a>(&'a Map<String, Value>);

impl<'a> Settings<'a> {
    /// None for anything but an object.
    pub(super) fn new(config: &'a Value) -> Option<Self> {
        config.as_object().map(Self)
    }

    /// The diffusers class.
    pub(super) fn class(&self) -> Option<&'a str> {
        self.text("_class_name")
    }

    /// A setting; null counts as absent, as it does in these configs.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A setting, null included.
    pub(super) fn raw(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key)
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// A number; none if it is there and not a whole number within bounds.
    pub(super) fn number(&self, key: &str, default: u64) -> Option<u64> {
        self.get(key).map_or(Some(default), number)
    }

    /// A number that is not zero.
    pub(super) fn positive(&self, key: &str, default: u64) -> Option<u64> {
        self.number(key, default).filter(|number| *number > 0)
    }

    /// A switch; none if it is there and neither true nor false.
    pub(super) fn flag(&self, key: &str, default: bool) -> Option<bool> {
        self.get(key).map_or(Some(default), Value::as_bool)
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, key: &str, default: &[u64]) -> Option<Vec<u64>> {
        self.get(key).map_or_else(|| Some(default.to_vec()), numbers)
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        list(self.get(key)?)?.iter().map(Value::as_str).collect()
    }

    /// One number for all levels, or a list of one per level.
    pub(super) fn per_level(&self, key: &str, default: u64, levels: usize) -> Option<Vec<u64>> {
        match self.get(key) {
            None => Some(vec![default; levels]),
            Some(value) if value.is_array() => numbers(value).filter(|numbers| numbers.len() == levels),
            Some(value) => Some(vec![number(value)?; levels]),
        }
    }

    /// Whether a setting is absent, or exactly this text.
    pub(super) fn is(&self, key: &str, only: &str) -> bool {
        self.get(key).is_none_or(|value| value.as_str() == Some(only))
    }
}

/// A whole number within bounds.
pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_u64().filter(|number| *number <= NUMBER_LIMIT)
}

/// A list of at least one and not too many values.
pub(super) fn list(value: &Value) -> Option<&Vec<Value>> {
    value.as_array().filter(|list| !list.is_empty() && list.len() <= LIST_LIMIT)
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    list(value)?.iter().map(number).collect()
}
