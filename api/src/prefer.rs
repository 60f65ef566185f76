//! `Prefer: wait=N` (RFC 7240): how long a client is willing to wait for a job to end.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Longest wait granted, in seconds.
pub(crate) const MAX_WAIT: u64 = 60;

/// The request header.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The answer's header: which preference was honoured.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A wait that was asked for, clamped to what is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    seconds: u64,
}

impl Wait {
    /// A wait of at most [`MAX_WAIT`].
    pub(crate) fn clamped(seconds: u64) -> Self {
        Self { seconds: seconds.min(MAX_WAIT) }
    }

    /// The first `wait` preference; unknown preferences and values that are not numbers are ignored, as the RFC asks.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            if !name.trim().eq_ignore_ascii_case("wait") {
                return None;
            }
            let value = value.trim().trim_matches('"');
            // more digits than fit still mean "as long as possible"
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| Self::clamped(value.parse().unwrap_or(MAX_WAIT)))
        })
    }

    /// As a duration.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// `wait=N` with the seconds really granted.
    pub(crate) fn applied(self) -> HeaderValue {
        HeaderValue::from_str(&format!("wait={}", self.seconds)).unwrap_or(HeaderValue::from_static("wait"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(PREFER, HeaderValue::from_str(text).unwrap());
        Wait::of(&headers).map(|wait| wait.seconds)
    }

    #[test]
    fn reads_the_wait_preference_and_clamps_it() {
        assert_eq!(of("wait=5"), Some(5));
        assert_eq!(of("respond-async, Wait = \"7\""), Some(7));
        assert_eq!(of("wait=0"), Some(0));
        assert_eq!(of("wait=9999"), Some(MAX_WAIT));
        assert_eq!(of("wait=99999999999999999999999"), Some(MAX_WAIT));
        for ignored in ["wait", "wait=", "wait=-1", "wait=soon", "return=minimal"] {
            assert_eq!(of(ignored), None, "{ignored}");
        }
    }
}
