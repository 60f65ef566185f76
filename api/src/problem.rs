//! The one mapping from what went wrong to `application/problem+json` (RFC 9457).

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use shared::{
    db::DbError,
    error::{Classify, ErrorCode, chain},
    wire::{FieldError, Problem},
};

/// The content type of every error.
pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a request says beside its arguments.
const BESIDE_ARGUMENTS: [&str; 5] = ["/kind", "/target", "/labels", "/priority", "/max_attempts"];

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    /// Boxed: errors travel in every `Result`, and are rare.
    inner: Box<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    code: ErrorCode,
    status: StatusCode,
    detail: String,
    hint: Option<String>,
    errors: Vec<FieldError>,
    retry_after: Option<u32>,
}

impl ApiError {
    /// An error with the status of its code.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = (code == ErrorCode::Unavailable).then_some(1);
        let inner = Inner { code, status, detail: detail.into(), hint: None, errors: Vec::new(), retry_after };
        Self { inner: Box::new(inner) }
    }

    /// The request is wrong.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, detail)
    }

    /// One field or parameter of the request is wrong.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut error = Self::invalid(detail.clone());
        error.inner.errors.push(FieldError { pointer: pointer.into(), detail });
        error
    }

    /// Several fields of the request are wrong.
    pub(crate) fn fields(faults: Vec<FieldError>) -> Self {
        let named: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
        let mut error = Self::invalid(named.join("; "));
        error.inner.errors = faults;
        error
    }

    /// What was named does not exist.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, detail)
    }

    /// It is in the way.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, detail)
    }

    /// A defect of ours: logged in full, told to the client without its insides.
    pub(crate) fn defect(error: impl std::error::Error + 'static) -> Self {
        tracing::error!(error = %chain(&error), "a request met a defect");
        Self::new(ErrorCode::Internal, "the request could not be served because of a defect; the log has the details")
    }

    /// What the reader can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// As [`ApiError::hint`], if there is one.
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.inner.hint = hint.or(self.inner.hint);
        self
    }

    /// The same problem of arguments that stand at `at` of the body, where a request has them in a place of their own; what stands
    /// beside them, and headers, are named as they are.
    pub(crate) fn within(mut self, at: &str) -> Self {
        let stands_there =
            |pointer: &str| pointer == at || pointer.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'));
        for fault in &mut self.inner.errors {
            let pointer = fault.pointer.as_str();
            let of_arguments = pointer.is_empty() || (pointer.starts_with('/') && !BESIDE_ARGUMENTS.contains(&pointer));
            if of_arguments && !stands_there(pointer) {
                fault.pointer = format!("{at}{pointer}");
            }
        }
        self
    }

    /// Another status than the code's usual one.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.inner.status = status;
        self
    }

    /// A problem for a status that the framework produced.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => (ErrorCode::NotFound, "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => (
                ErrorCode::InvalidArgument,
                "this path does not answer this method; the allow header names those it does",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::InvalidArgument, "the body is larger than 1 MiB"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (ErrorCode::Unsupported, "the body must be `application/json`"),
            StatusCode::REQUEST_TIMEOUT => (ErrorCode::Timeout, "the request did not arrive in time"),
            status if status.is_client_error() => (ErrorCode::InvalidArgument, "the request cannot be served"),
            _ => (ErrorCode::Internal, "the request could not be served"),
        };
        Self::new(code, detail).status(status)
    }

    /// The code, for tests and metrics.
    #[cfg(test)]
    pub(crate) fn code(&self) -> ErrorCode {
        self.inner.code
    }

    /// The body; request id and path are filled in by [`crate::context`].
    pub(crate) fn body(&self) -> Problem {
        let inner = &*self.inner;
        Problem {
            problem_type: format!("urn:modelyard:problem:{}", inner.code),
            title: inner.code.as_str().replace('_', " "),
            status: inner.status.as_u16(),
            detail: inner.detail.clone(),
            instance: None,
            code: inner.code,
            hint: inner.hint.clone(),
            request_id: None,
            errors: inner.errors.clone(),
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error.code() {
            ErrorCode::Unavailable => {
                tracing::warn!(error = %chain(&error), "Postgres could not be used");
                Self::new(ErrorCode::Unavailable, error.to_string()).hint("try again; the API recovers by itself")
            }
            ErrorCode::NotFound => Self::not_found(error.to_string()),
            _ => Self::defect(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = render(&self.body());
        if let Some(seconds) = self.inner.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.inner.status == StatusCode::PAYLOAD_TOO_LARGE {
            // the rest of the body is never read, so the connection ends: the client must not send its next request on it
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.inner.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"modelyard\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A problem as a response.
pub(crate) fn render(problem: &Problem) -> Response {
    // a struct of strings and numbers always encodes
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_body_ends_the_connection() {
        let response = ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE).into_response();
        assert_eq!(response.headers()[header::CONNECTION], "close");
        assert!(!ApiError::of_status(StatusCode::NOT_FOUND).into_response().headers().contains_key(header::CONNECTION));
    }

    #[test]
    fn an_unreachable_database_is_503_with_retry_after_and_no_insides() {
        let response = ApiError::from(DbError::timed_out()).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn faults_of_arguments_are_pointed_at_where_these_stand() {
        let pointed =
            |pointer: &str, at: &str| ApiError::field(pointer, "x").within(at).body().errors[0].pointer.clone();
        for (pointer, moved) in [
            ("/components/1", "/args/components/1"),
            ("", "/args"),
            ("/args/model", "/args/model"),
            ("/argsy", "/args/argsy"),
            ("/target", "/target"),
            ("idempotency-key", "idempotency-key"),
        ] {
            assert_eq!((pointed(pointer, "/args").as_str(), pointed(pointer, "").as_str()), (moved, pointer));
        }
    }

    #[test]
    fn every_code_has_a_stable_type_and_its_status() {
        for code in ErrorCode::ALL {
            let body = ApiError::new(code, "x").body();
            assert_eq!(body.problem_type, format!("urn:modelyard:problem:{code}"));
            assert_eq!(body.status, code.http_status());
        }
    }
}
