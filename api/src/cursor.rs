//! Page cursors: opaque, versioned, signed, and bound to the filter and order that they were issued for.
//!
//! The key is derived from the database URL, so that every API process of a farm reads the others' cursors and none
//! has to be configured. A cursor holds nothing secret; the signature keeps clients from building on its contents.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::problem::ApiError;

const VERSION: u8 = 1;
/// Bytes of the signature that are kept.
const MAC_BYTES: usize = 16;

/// Signs and reads cursors.
#[derive(Clone)]
pub(crate) struct Cursors {
    key: [u8; 32],
}

impl std::fmt::Debug for Cursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursors").finish_non_exhaustive()
    }
}

/// Where the next page starts: after the row with this sort value and id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The sort value as text.
    pub(crate) value: String,
    /// The row's id.
    pub(crate) id: String,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    v: u8,
    /// Digest of the list's filter and order.
    b: String,
    p: Position,
}

impl Cursors {
    /// Cursors of the farm with this database.
    pub(crate) fn new(database_url: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"modelyard page cursor\0");
        digest.update(database_url.as_bytes());
        Self { key: digest.finalize().into() }
    }

    /// The cursor of the page after `position` in the list that `binding` describes.
    pub(crate) fn issue(&self, binding: &str, position: Position) -> Result<String, ApiError> {
        let payload = Payload { v: VERSION, b: digest_of(binding), p: position };
        let mut bytes = serde_json::to_vec(&payload).map_err(ApiError::defect)?;
        let signature = self.sign(&bytes)?;
        bytes.extend_from_slice(&signature);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a cursor back.
    ///
    /// # Errors
    /// A 400 problem when it was not issued by this farm, is of another version, or belongs to another list.
    pub(crate) fn read(&self, binding: &str, text: &str) -> Result<Position, ApiError> {
        let refused =
            |why: &str| ApiError::field("cursor", format!("the cursor {why}")).hint("start again without a cursor");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused("is not one of ours"))?;
        let at = bytes.len().checked_sub(MAC_BYTES).ok_or_else(|| refused("is not one of ours"))?;
        let (payload, signature) = bytes.split_at(at);
        self.mac(payload)?.verify_truncated_left(signature).map_err(|_| refused("is not one of ours"))?;
        let payload: Payload = serde_json::from_slice(payload).map_err(|_| refused("is of another version"))?;
        if payload.v != VERSION {
            return Err(refused("is of another version"));
        }
        if payload.b != digest_of(binding) {
            return Err(refused("belongs to a list with another filter or order"));
        }
        Ok(payload.p)
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
        Ok(self.mac(bytes)?.finalize().into_bytes().into_iter().take(MAC_BYTES).collect())
    }

    fn mac(&self, bytes: &[u8]) -> Result<Hmac<Sha256>, ApiError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key)
            .map_err(|error| ApiError::defect(std::io::Error::other(error.to_string())))?;
        mac.update(bytes);
        Ok(mac)
    }
}

fn digest_of(binding: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(binding.as_bytes()).into_iter().take(12).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        Position { value: "sdxl".into(), id: "01JD9Z8M3V6Q2X4K7T5R1W0YBC".into() }
    }

    #[test]
    fn round_trips_in_its_own_list_only() {
        let cursors = Cursors::new("postgres://a/b");
        let cursor = cursors.issue("models?type=vae&sort=name", position()).unwrap();
        assert_eq!(cursors.read("models?type=vae&sort=name", &cursor).unwrap(), position());
        assert!(cursors.read("models?type=lora&sort=name", &cursor).is_err());
        assert!(Cursors::new("postgres://a/c").read("models?type=vae&sort=name", &cursor).is_err());
    }

    #[test]
    fn any_changed_character_is_refused() {
        let cursors = Cursors::new("x");
        let cursor = cursors.issue("l", position()).unwrap();
        for index in 0..cursor.len() {
            let mut bytes = cursor.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            assert!(cursors.read("l", std::str::from_utf8(&bytes).unwrap()).is_err(), "position {index}");
        }
        for text in ["", "AAAA", "not base64!"] {
            assert!(cursors.read("l", text).is_err());
        }
    }
}
