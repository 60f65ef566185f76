//! Where a job may run: `device:<id>`, `host:<name>`, `any` or `all`.

use std::{fmt, str::FromStr};

/// A target as clients write it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// The best place, chosen by the scheduler.
    #[default]
    Any,
    /// One child job for each suitable place.
    All,
    /// This host.
    Host(String),
    /// This device, `<host>/<name>`.
    Device(String),
}

/// Text that is not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a target: write `any`, `all`, `host:<name>` or `device:<host>/<device>`")]
pub struct BadTarget(String);

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget(text.to_owned());
        match text.split_once(':') {
            None if text == "any" => Ok(Self::Any),
            None if text == "all" => Ok(Self::All),
            Some(("host", name)) if !name.is_empty() => Ok(Self::Host(name.to_owned())),
            Some(("device", id)) if id.contains('/') => Ok(Self::Device(id.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::All => f.write_str("all"),
            Self::Host(name) => write!(f, "host:{name}"),
            Self::Device(id) => write!(f, "device:{id}"),
        }
    }
}

impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["any", "all", "host:a", "device:a/cuda:0"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "device:cuda:0", "host:", "everywhere"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
