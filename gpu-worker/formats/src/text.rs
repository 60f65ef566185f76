//! Text that came from a file, made safe to print, log and store.

/// Longest name that an error message repeats, in characters.
const SHOWN_CHARS: usize = 120;

/// A name from a file for messages: control characters escaped, long names cut.
pub(crate) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_CHARS).is_some() {
        text.push('…');
    }
    text
}

/// A string from a file for storage: NUL, which databases refuse in text, becomes U+FFFD.
#[must_use]
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// `value` with every string and key made [`storable`].
pub(crate) fn storable_json(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(storable(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(storable_json).collect()),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (storable(&key), storable_json(value))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(shown("a\n\u{1b}[31m\0b"), "a\\n\\u{1b}[31m\\0b");
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), SHOWN_CHARS + 1);
    }

    #[test]
    fn nul_does_not_reach_storage() {
        let value = storable_json(serde_json::json!({"a\u{0}": ["\u{0}", 1]}));
        assert_eq!(value, serde_json::json!({"a\u{fffd}": ["\u{fffd}", 1]}));
    }
}
