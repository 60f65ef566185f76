//! Extractors that refuse as problems: paths, queries, and commands (a JSON body with the headers that steer a job).

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use shared::error::ErrorCode;

use crate::{
    idempotency::{self, Asked},
    problem::ApiError,
};

/// Largest body.
pub(crate) const BODY_LIMIT: usize = 1 << 20;
/// Longest time for a body to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(8);

/// Path parameters, percent-decoded.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::invalid(rejection.body_text())),
        }
    }
}

/// Query parameters; unknown ones are refused by the types (`deny_unknown_fields`).
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

/// For routes that take no query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParameters {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(bad_query(&rejection.body_text())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NoParameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, state).await.map(|Query(none)| none)
    }
}

fn bad_query(text: &str) -> ApiError {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let named = quoted_after(text, "unknown field ").or_else(|| quoted_after(text, "duplicate field "));
    let (pointer, detail) = match (named, text.split_once(": ")) {
        (Some(name), Some((path, detail))) if path == name => (name, detail),
        (Some(name), _) => (name, text),
        (None, Some((path, detail))) if !path.contains(' ') => (path, detail),
        (None, _) => ("", text),
    };
    ApiError::field(pointer, detail.replace("field", "parameter"))
}

fn quoted_after<'t>(text: &'t str, marker: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(marker)?;
    rest.strip_prefix('`')?.split_once('`').map(|(name, _)| name)
}

/// A JSON body (an absent one counts as `{}`) with what else steers an accepted job.
#[derive(Debug)]
pub(crate) struct Command<T> {
    /// The decoded body.
    pub(crate) body: T,
    /// Idempotency key, waiting time, trace context.
    pub(crate) asked: Asked,
}

/// The body of commands that take none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoBody {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Command<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(body).await?;
        let body = decode(&parts.headers, &bytes)?;
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let asked = idempotency::asked(&parts, route, &bytes)?;
        Ok(Self { body, asked })
    }
}

/// The whole body, within the limits of size and time.
///
/// # Errors
/// 400, 408 and 413 problems.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_PATIENCE, axum::body::to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(bad_read(&error)),
        Err(_) => Err(ApiError::of_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

fn bad_read(error: &axum::Error) -> ApiError {
    let too_long = std::error::Error::source(error).is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
    if too_long {
        ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE)
    } else {
        ApiError::invalid("the body could not be read to its end")
    }
}

fn decode<T: DeserializeOwned>(headers: &HeaderMap, bytes: &Bytes) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return parse(b"{}");
    }
    if !is_json(headers) {
        let detail = "the body must be sent as `content-type: application/json`";
        return Err(ApiError::new(ErrorCode::Unsupported, detail));
    }
    parse(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Parses JSON; an error names the field by a JSON pointer.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let message = error.inner().to_string();
        bad_json(&error.path().to_string(), &message)
    })?;
    deserializer.end().map_err(|error| bad_json(".", &error.to_string()))?;
    Ok(value)
}

/// As [`parse`], for a value inside a body at `at`.
pub(crate) fn parse_value<T: DeserializeOwned>(at: &str, value: serde_json::Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error: serde_path_to_error::Error<serde_json::Error>| {
        let message = error.inner().to_string();
        let path = error.path().to_string();
        bad_json(&if path == "." { at.to_owned() } else { format!("{at}.{path}") }, &message)
    })
}

fn bad_json(path: &str, message: &str) -> ApiError {
    let mut pointer = String::new();
    for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty() && *part != "?") {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    }
    let named = ["unknown field ", "missing field ", "duplicate field "]
        .into_iter()
        .find_map(|marker| quoted_after(message, marker));
    if let Some(name) = named.filter(|name| pointer.rsplit('/').next() != Some(name)) {
        pointer.push('/');
        pointer.push_str(name);
    }
    ApiError::field(pointer, message)
}

#[cfg(test)]
mod tests {
    use shared::wire::LoadRequest;

    use super::*;

    fn pointer(text: &str) -> String {
        let error = parse::<LoadRequest>(text.as_bytes()).unwrap_err();
        error.body().errors[0].pointer.clone()
    }

    #[test]
    fn body_errors_point_at_the_field() {
        assert_eq!(pointer(r#"{"componets": []}"#), "/componets");
        assert_eq!(pointer(r#"{"priority": "high"}"#), "/priority");
        assert_eq!(pointer(r#"{"components": ["a", 2]}"#), "/components/1");
        assert_eq!(pointer(r#"{"target": "nowhere"}"#), "/target");
        assert_eq!(pointer("{} {}"), "");
    }

    #[test]
    fn query_errors_name_the_parameter() {
        let error = bad_query("Failed to deserialize query string: limit: invalid digit found in string");
        assert_eq!(error.body().errors[0].pointer, "limit");
        let error = bad_query("Failed to deserialize query string: unknown field `typ`, expected `type`");
        assert_eq!(error.body().errors[0].pointer, "typ");
    }
}
