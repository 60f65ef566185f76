//! The bearer token: compared by digest in constant time.

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use shared::error::ErrorCode;

use crate::problem::ApiError;

/// Who may ask: everyone, or whoever knows the token.
#[derive(Clone)]
pub(crate) struct Auth {
    digest: Option<[u8; 32]>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("required", &self.digest.is_some()).finish()
    }
}

impl Auth {
    /// Requires this token, if there is one.
    pub(crate) fn new(token: Option<&str>) -> Self {
        Self { digest: token.map(|token| Sha256::digest(token.as_bytes()).into()) }
    }

    /// Lets a request pass or says why not.
    ///
    /// # Errors
    /// A 401 problem.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(wanted) = &self.digest else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
        match given {
            Some(token) if same(wanted, &Sha256::digest(token.as_bytes()).into()) => Ok(()),
            Some(_) => Err(refused("the bearer token is not the one of this API")),
            None => Err(refused("this API wants `Authorization: Bearer <token>`")),
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Looks at every byte whatever the others were, so that the time says nothing about them.
fn same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let difference = left.iter().zip(right).fold(0u8, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn refused(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, detail).status(StatusCode::UNAUTHORIZED)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_token_passes_where_one_is_required() {
        let auth = Auth::new(Some("secret-secret-secret"));
        assert!(auth.admit(&headers("bearer secret-secret-secret")).is_ok());
        assert!(auth.admit(&headers("Bearer secret-secret-secreT")).is_err());
        assert!(auth.admit(&headers("Basic secret-secret-secret")).is_err());
        assert!(auth.admit(&HeaderMap::new()).is_err());
        assert!(Auth::new(None).admit(&HeaderMap::new()).is_ok());
    }
}
