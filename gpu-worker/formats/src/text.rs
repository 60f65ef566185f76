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
    if has_nul(text) { text.replace('\0', "\u{fffd}") } else { text.to_owned() }
}

fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

/// The first `chars` characters.
pub(crate) fn first(text: &str, chars: usize) -> String {
    // no text has more characters than bytes
    if text.len() <= chars { text.to_owned() } else { text.chars().take(chars).collect() }
}

/// `value` with every string and key made [`storable`]; hardly any has to be.
pub(crate) fn storable_json(mut value: serde_json::Value) -> serde_json::Value {
    make_storable(&mut value);
    value
}

fn make_storable(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) if has_nul(text) => *text = storable(text),
        Value::Array(items) => items.iter_mut().for_each(make_storable),
        Value::Object(map) => {
            map.values_mut().for_each(make_storable);
            if map.keys().any(|key| has_nul(key)) {
                *map = std::mem::take(map).into_iter().map(|(key, value)| (storable(&key), value)).collect();
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
    fn what_is_cut_is_cut_between_characters() {
        assert_eq!([first("häß", 2), first("häß", 3), first("häß", 9), first("", 0)], ["hä", "häß", "häß", ""]);
    }

    #[test]
    fn nul_does_not_reach_storage() {
        let value = storable_json(serde_json::json!({"a\u{0}": ["\u{0}", 1]}));
        assert_eq!(value, serde_json::json!({"a\u{fffd}": ["\u{fffd}", 1]}));
        let inner = storable_json(serde_json::json!([{"a": {"\u{0}b": "c\u{0}"}}, "d"]));
        assert_eq!(inner, serde_json::json!([{"a": {"\u{fffd}b": "c\u{fffd}"}}, "d"]));
    }
}
