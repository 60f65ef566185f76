//! Byte sizes as people write and read them (`24GiB`, `6.9 GB`), one parser and one printer for all binaries.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Text that is not a byte size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size: write a number with an optional unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB), e.g. `24GiB`"
)]
pub struct BadByteSize(String);

const UNITS: [(&str, u64); 9] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];

impl FromStr for ByteSize {
    type Err = BadByteSize;

    fn from_str(text: &str) -> Result<Self, BadByteSize> {
        let bad = || BadByteSize(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| lower.strip_suffix(suffix).map(|number| (number, *unit)))
            .unwrap_or((lower.as_str(), 1));
        let number = number.trim();
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Self).ok_or_else(bad);
        }
        let value = number.parse::<f64>().map_err(|_| bad())? * unit as f64;
        if value.is_finite() && value >= 0.0 && value < u64::MAX as f64 { Ok(Self(value as u64)) } else { Err(bad()) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        for (name, unit) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= unit {
                return f.pad(&format!("{:.1} {name}", bytes / unit as f64));
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        for (text, bytes) in [("0", 0), ("24GiB", 24 << 30), ("1.5 gib", 3 << 29), ("500 MB", 500_000_000), ("17b", 17)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "GiB", "-1", "1e400", "99999999999TiB", "nan"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_with_binary_units() {
        assert_eq!(ByteSize(512).to_string(), "512 B");
        assert_eq!(ByteSize(7 << 30).to_string(), "7.0 GiB");
    }
}
