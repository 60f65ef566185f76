//! Headers of files that are written.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use super::WriteError;
use crate::safetensors::{HEADER_LIMIT_BYTES, Header};

/// Data begins at a multiple of this.
const ALIGNMENT: usize = 8;

/// Length and header, with the tensors of `header` where they are, and this metadata.
pub(super) fn bytes(header: &Header, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, WriteError> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!(metadata));
    for tensor in &header.tensors {
        let offsets = [tensor.begin, tensor.end].map(|at| at.saturating_sub(header.data_begin));
        let entry = json!({ "dtype": tensor.dtype.as_str(), "shape": tensor.shape, "data_offsets": offsets });
        entries.insert(tensor.name.clone(), entry);
    }
    framed(&Value::Object(entries), &header.file.path)
}

/// A header with its length before it, padded with spaces, as the format allows. `path` is the file that it is for.
pub(crate) fn framed(header: &Value, path: &Path) -> Result<Vec<u8>, WriteError> {
    let mut text = serde_json::to_vec(header).map_err(|source| WriteError::Io {
        path: path.to_owned(),
        doing: "making the header",
        source: std::io::Error::other(source),
    })?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    let length = text.len() as u64;
    if length > HEADER_LIMIT_BYTES {
        let path = path.to_owned();
        return Err(WriteError::HeaderTooLarge { path, bytes: length, limit_bytes: HEADER_LIMIT_BYTES });
    }
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}
