//! `Idempotency-Key`: the same request with the same key gets the first one's answer, also after a lost connection.
//! The key is claimed in the transaction that enqueues, so a crash between the two cannot happen.

use axum::http::{HeaderName, StatusCode, request::Parts};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared::{
    db::idempotency::{Claim, claim, store},
    db::{Session, Transaction},
    wire::JobView,
};

use crate::{prefer::Wait, problem::ApiError, state::AppState};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_KEY: usize = 255;

/// What a request says beside its body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    key: Option<Key>,
    /// How long the client waits for the job.
    pub(crate) wait: Option<Wait>,
    /// W3C trace context to store with the job.
    pub(crate) traceparent: Option<String>,
}

#[derive(Debug, Clone)]
struct Key {
    route: String,
    key: String,
    fingerprint: String,
}

/// An answer as it is stored under a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// The job as it was accepted.
    pub(crate) job: JobView,
    /// An equal active job was joined.
    pub(crate) joined: bool,
    /// This is the stored answer of an earlier request.
    #[serde(skip)]
    pub(crate) replayed: bool,
}

/// Reads the headers; the fingerprint covers method, path, query and body.
///
/// # Errors
/// A 400 problem for a key that is not one.
pub(crate) fn asked(parts: &Parts, route: &str, body: &[u8]) -> Result<Asked, ApiError> {
    let key = parts.headers.get(IDEMPOTENCY_KEY).map(|value| {
        let text = value.to_str().unwrap_or_default();
        let usable =
            !text.is_empty() && text.len() <= MAX_KEY && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        usable.then(|| text.to_owned()).ok_or_else(|| {
            ApiError::field("idempotency-key", format!("an idempotency key is 1 to {MAX_KEY} visible ASCII characters"))
        })
    });
    let key = key.transpose()?.map(|key| Key {
        route: format!("{} {route}", parts.method),
        key,
        fingerprint: fingerprint(parts, body),
    });
    Ok(Asked { key, wait: Wait::of(&parts.headers), traceparent: traceparent(parts) })
}

fn fingerprint(parts: &Parts, body: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(parts.method.as_str());
    digest.update([0]);
    digest.update(parts.uri.path_and_query().map_or("", |path| path.as_str()));
    digest.update([0]);
    // key order and spaces of the body say nothing
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => digest.update(value.to_string()),
        Err(_) => digest.update(body),
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A well-formed `traceparent`; anything else is as good as none.
fn traceparent(parts: &Parts) -> Option<String> {
    let text = parts.headers.get(TRACEPARENT)?.to_str().ok()?;
    let fields: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = fields.iter().map(|field| field.len()).collect();
    let hex = fields.iter().all(|field| field.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (lengths == [2, 32, 16, 2] && hex).then(|| text.to_owned())
}

/// The stored answer, if this request was answered before.
///
/// # Errors
/// 422 when the key was used for another request.
pub(crate) async fn replay(state: &AppState, asked: &Asked) -> Result<Option<Accepted>, ApiError> {
    if asked.key.is_none() {
        return Ok(None);
    }
    // rolled back: the claim that counts is made beside the enqueue
    let mut tx = state.begin().await?;
    let found = claimed(&mut tx, asked).await?;
    tx.rollback().await.map_err(shared::db::DbError::from)?;
    Ok(found)
}

/// Claims the key in the transaction that does the work; a stored answer when another request was first.
///
/// # Errors
/// 422 and 409 problems, database errors.
pub(crate) async fn claimed(tx: &mut Session, asked: &Asked) -> Result<Option<Accepted>, ApiError> {
    let Some(key) = &asked.key else { return Ok(None) };
    match claim(tx, &key.route, &key.key, &key.fingerprint).await? {
        Claim::Fresh => Ok(None),
        Claim::Replay(_, response) => {
            let stored: Accepted = serde_json::from_value(response).map_err(ApiError::defect)?;
            Ok(Some(Accepted { replayed: true, ..stored }))
        }
        Claim::Mismatch => Err(ApiError::field("idempotency-key", "this idempotency key was used for another request")
            .status(StatusCode::UNPROCESSABLE_ENTITY)
            .hint("use a new key for a new request")),
        Claim::InFlight => {
            Err(ApiError::conflict("the first request with this idempotency key has not been answered yet")
                .hint("ask again in a moment"))
        }
    }
}

/// Stores the answer in the transaction that made it.
///
/// # Errors
/// Database errors.
pub(crate) async fn keep(tx: &mut Transaction, asked: &Asked, accepted: &Accepted) -> Result<(), ApiError> {
    let Some(key) = &asked.key else { return Ok(()) };
    let response = serde_json::to_value(accepted).map_err(ApiError::defect)?;
    store(tx, &key.route, &key.key, i32::from(StatusCode::ACCEPTED.as_u16()), &response).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(key: &str) -> Parts {
        let request = Request::post("/v1/models/a/load").header(IDEMPOTENCY_KEY, key).body(()).unwrap();
        request.into_parts().0
    }

    fn print_of(body: &str) -> String {
        asked(&parts("k"), "/r", body.as_bytes()).unwrap().key.unwrap().fingerprint
    }

    #[test]
    fn equal_bodies_have_equal_fingerprints_however_they_are_written() {
        assert_eq!(print_of(r#"{"a":1,"b":2}"#), print_of("{ \"b\": 2, \"a\": 1 }"));
        assert_ne!(print_of(r#"{"a":1}"#), print_of(r#"{"a":2}"#));
    }

    #[test]
    fn keys_have_a_length_and_no_control_characters() {
        assert!(asked(&parts(&"k".repeat(255)), "/r", b"").is_ok());
        assert!(asked(&parts(&"k".repeat(256)), "/r", b"").is_err());
        assert!(asked(&parts(""), "/r", b"").is_err());
    }

    #[test]
    fn only_a_well_formed_traceparent_is_kept() {
        let of = |text: &str| {
            let request = Request::get("/").header(TRACEPARENT, text).body(()).unwrap();
            traceparent(&request.into_parts().0)
        };
        assert!(of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is_some());
        assert!(of("00-zaf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is_none());
        assert!(of("hello").is_none());
    }
}
