//! Entity tags: made of a row's version and of the whole answer, and compared as RFC 9110 §13.1 says.

use std::fmt::Display;

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use shared::error::ErrorCode;

use crate::problem::ApiError;

/// The tag of an answer. A strong validator must change whenever the answer does, so the version alone is not enough.
pub(crate) fn of<T: Serialize>(version: impl Display, answer: &T) -> String {
    let digest = Sha256::digest(serde_json::to_vec(answer).unwrap_or_default());
    let print: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{version}.{print}\"")
}

/// The answer with its tag, or 304 to a client that has it.
pub(crate) fn answer<T: Serialize>(headers: &HeaderMap, version: impl Display, answer: &T) -> Response {
    let tag = of(version, answer);
    let unchanged = is_known(headers, &tag);
    let etag = [(header::ETAG, HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")))];
    if unchanged { (StatusCode::NOT_MODIFIED, etag).into_response() } else { (etag, Json(answer)).into_response() }
}

/// Whether the client says that it has what has this tag (`If-None-Match`).
pub(crate) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    named(headers, header::IF_NONE_MATCH).any(|given| matches_weakly(given, tag))
}

fn named(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn matches_weakly(given: &str, tag: &str) -> bool {
    given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag
}

/// Refuses a change of something else than what the client has seen, where it says what it has seen (`If-Match`).
///
/// # Errors
/// A 412 problem.
pub(crate) fn must_match(headers: &HeaderMap, tag: &str) -> Result<(), ApiError> {
    admit(headers, |given| given == tag)
}

/// As [`must_match`], of a row whose answer also shows what changes by itself: only its version counts.
///
/// # Errors
/// A 412 problem.
pub(crate) fn must_match_version(headers: &HeaderMap, version: impl Display) -> Result<(), ApiError> {
    let begin = format!("\"{version}.");
    admit(headers, |given| given.starts_with(&begin))
}

fn admit(headers: &HeaderMap, is_current: impl Fn(&str) -> bool) -> Result<(), ApiError> {
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(());
    }
    if named(headers, header::IF_MATCH).any(|given| given == "*" || is_current(given)) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Precondition, "it was changed since the version that `if-match` names")
        .hint("read it again and repeat the change on what it is now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static(value))])
    }

    #[test]
    fn reading_compares_weakly() {
        assert!(matches_weakly("W/\"1.ab\"", "\"1.ab\"") && matches_weakly("*", "\"1.ab\""));
        assert!(!matches_weakly("\"2.ab\"", "\"1.ab\""));
    }

    #[test]
    fn changing_compares_strongly_and_only_when_asked_to() {
        assert!(must_match(&HeaderMap::new(), "\"1.ab\"").is_ok());
        assert!(must_match(&headers("\"0.cd\", \"1.ab\""), "\"1.ab\"").is_ok());
        assert!(must_match(&headers("*"), "\"1.ab\"").is_ok());
        assert_eq!(must_match(&headers("W/\"1.ab\""), "\"1.ab\"").unwrap_err().code(), ErrorCode::Precondition);
        assert!(must_match_version(&headers("\"1.ab\""), 1).is_ok());
        assert!(must_match_version(&headers("\"1.ab\""), 11).is_err());
    }
}
