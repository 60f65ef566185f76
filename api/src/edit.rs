//! The extractor of changes: a JSON body that must be there, what the client has seen, and who it says it is.

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderName, Method, header},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::error::ErrorCode;

use crate::{
    extract::{parse, read_body},
    problem::ApiError,
};

const ACTOR: HeaderName = HeaderName::from_static("modelyard-actor");
const MAX_ACTOR: usize = 100;
/// Recorded for a change of which nobody says who made it.
const UNNAMED: &str = "unnamed";

/// A change.
#[derive(Debug)]
pub(crate) struct Edit<T> {
    /// The decoded body.
    pub(crate) body: T,
    /// All headers, for `If-Match`.
    pub(crate) headers: HeaderMap,
    /// Who, for the history. The API has one token, so this is what the client says.
    pub(crate) actor: String,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Edit<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(body).await?;
        if bytes.is_empty() {
            return Err(ApiError::field("", "a change needs a body"));
        }
        if !is_accepted(&parts.method, &parts.headers) {
            let detail = "the body must be sent as `content-type: application/json`, or `application/merge-patch+json` with PATCH";
            return Err(ApiError::new(ErrorCode::Unsupported, detail));
        }
        // a list would be taken for the fields in their order
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(ApiError::field("", "a change is a JSON object"));
        }
        Ok(Self { body: parse(&bytes)?, actor: actor(&parts.headers)?, headers: parts.headers })
    }
}

fn is_accepted(method: &Method, headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind == "application/merge-patch+json" && method == Method::PATCH)
}

/// Who makes a change.
///
/// # Errors
/// 400 for a name that is none.
pub(crate) fn actor(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(value) = headers.get(ACTOR) else { return Ok(UNNAMED.to_owned()) };
    let name = value.to_str().unwrap_or_default().trim();
    if name.is_empty() || name.len() > MAX_ACTOR {
        let detail = format!("a name is 1 to {MAX_ACTOR} visible ASCII characters");
        return Err(ApiError::field("modelyard-actor", detail));
    }
    Ok(name.to_owned())
}

/// Applies a JSON Merge Patch (RFC 7396): null removes, objects are merged, everything else replaces.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    /// The cases of RFC 7396, appendix A.
    #[test]
    fn patches_are_merged_as_the_rfc_shows() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (mut target, patch, wanted) in cases {
            merge(&mut target, patch.clone());
            assert_eq!(target, wanted, "{patch}");
        }
    }

    #[test]
    fn merge_patches_come_with_patch_only_and_names_have_bounds() {
        let typed =
            |value: &'static str| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert!(is_accepted(&Method::PATCH, &typed("application/merge-patch+json; charset=utf-8")));
        assert!(!is_accepted(&Method::PUT, &typed("application/merge-patch+json")));
        assert!(is_accepted(&Method::PUT, &typed("Application/JSON")) && !is_accepted(&Method::PUT, &HeaderMap::new()));
        let named = |value: &str| actor(&HeaderMap::from_iter([(ACTOR, HeaderValue::from_str(value).unwrap())]));
        assert_eq!(actor(&HeaderMap::new()).unwrap(), UNNAMED);
        assert_eq!(named("ada").unwrap(), "ada");
        assert!(named("").is_err() && named(&"a".repeat(101)).is_err());
    }
}
