//! How long a component stays in RAM after its last use, as people say it: `"10m"`, seconds, 0 for at once, negative for ever.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Time after the last use; none means until the eviction policy takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, example = "10m")]
pub struct KeepAlive(pub Option<Duration>);

/// What a request says about keeping what it brings into RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// How long it stays after its last use.
    pub keep_alive: Option<KeepAlive>,
    /// It is not evicted until somebody unprotects it.
    pub protect: bool,
}

impl Keep {
    /// A part of a single-flight key: requests that say something else are other requests.
    pub(super) fn key(keep_alive: Option<KeepAlive>, protect: bool) -> String {
        let alive = keep_alive.map(|alive| format!("/keep={alive}")).unwrap_or_default();
        if protect { format!("{alive}/protect") } else { alive }
    }
}

impl FromStr for KeepAlive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.strip_prefix('-').is_some_and(|number| crate::config::parse_seconds(number).is_ok()) {
            return Ok(Self(None));
        }
        let hours = text.strip_suffix('h').and_then(|number| number.trim().parse::<f64>().ok());
        let seconds = match hours {
            Some(hours) => crate::config::parse_seconds(&(hours * 3600.0).to_string()),
            None => crate::config::parse_seconds(text),
        };
        seconds.map(|span| Self(Some(span))).map_err(|_| {
            format!("`{text}` is no keep-alive: write `10m`, `2h`, seconds, `0` for none or `-1` for ever")
        })
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => write!(f, "{}", span.as_secs_f64()),
            None => f.write_str("-1"),
        }
    }
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            other => return Err(D::Error::custom(format!("`{other}` is no keep-alive: a text or a number is"))),
        };
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_are_read_and_written_as_seconds() {
        let of = |text: &str| serde_json::from_str::<KeepAlive>(text).unwrap();
        for (text, seconds) in [("\"10m\"", 600.0), ("\"2h\"", 7200.0), ("90", 90.0), ("\"500ms\"", 0.5), ("0", 0.0)] {
            assert_eq!(of(text), KeepAlive(Some(Duration::from_secs_f64(seconds))), "{text}");
        }
        for text in ["-1", "\"-1\"", "\"-1s\""] {
            assert_eq!(of(text), KeepAlive(None));
        }
        for text in ["\"soon\"", "true", "\"-soon\"", "\"\"", "1e300"] {
            assert!(serde_json::from_str::<KeepAlive>(text).is_err(), "{text}");
        }
        for keep in [of("\"10m\""), of("-1"), of("0.25")] {
            assert_eq!(of(&serde_json::to_string(&keep).unwrap()), keep);
        }
        assert_eq!(Keep::key(Some(of("-1")), true), "/keep=-1/protect");
        assert_eq!(Keep::key(None, false), "");
    }
}
