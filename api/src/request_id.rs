//! The id that ties an answer, its problem and its log line together: taken from the client or made here.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from a client.
const MAX: usize = 128;

/// A request's id.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    /// The client's id when it is short and plain; a new one otherwise, so that nothing strange reaches the log.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let plain = |id: &&str| !id.is_empty() && id.len() <= MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
        Self(given.filter(plain).map_or_else(|| ulid::Ulid::new().to_string(), str::to_owned))
    }

    /// The id as a header value; none only if it is not one, which [`RequestId::of`] rules out.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ids_are_kept_and_others_replaced() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(text).unwrap());
            RequestId::of(&headers).0
        };
        assert_eq!(of("abc-1"), "abc-1");
        assert_ne!(of("two words"), "two words");
        assert_eq!(of(&"x".repeat(200)).len(), 26);
    }
}
