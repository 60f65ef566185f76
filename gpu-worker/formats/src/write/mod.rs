//! What is written beside models: side-cars and re-headed copies. A model's own files are only ever read.
//!
//! Everything is written under another name in the folder where it is to be, flushed, and then given its name, which must be free
//! or that of something that was written here before. A reader sees all of it or nothing, also after a power failure.
//!
//! - [`Document`] is the side-car `<stem>.json`; its fields are its schema, and [`crate::metadata`] reads it back.
//! - [`struct@Copy`] is a safetensors file with the same tensors byte for byte under a header with more metadata.
//! - [`NewFile`] is a safetensors file of tensors that were computed.

mod copy;
mod document;
mod error;
mod header;
mod name;
mod partial;
mod place;
mod tensors;
#[cfg(test)]
mod tests;

pub use copy::{Copied, Copy};
pub(crate) use document::is_ours;
pub use document::{Document, Hashes, SCHEMA, Written};
pub use error::WriteError;
pub(crate) use header::framed;
pub(crate) use name::Standing;
pub(crate) use partial::{Partial, remove};
pub use place::Place;
pub use tensors::{NewFile, NewTensor};

use std::io::Write;

/// The key of a copy's metadata that names the job which wrote it: what has it may be overwritten by a later job.
pub const JOB_KEY: &str = "modelyard.job";

/// The key of a converted file's metadata that says what it was made from, as JSON.
pub const MADE_FROM_KEY: &str = "modelyard.made_from";
/// The file of a converted folder that says the same.
pub(crate) const NOTE_FILE: &str = "modelyard.json";
/// The value of its `schema`.
pub(crate) const NOTE_SCHEMA: &str = "modelyard/made/1";

/// Writes a side-car; its bytes. What the same job has written before an interruption is done.
///
/// # Errors
/// [`WriteError`].
pub fn sidecar(place: &Place, document: &Document, overwrite: bool) -> Result<u64, WriteError> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|source| place.failed("making the side-car", std::io::Error::other(source)))?;
    text.push(b'\n');
    let bytes = text.len() as u64;
    let job = document.written.as_ref().map(|written| written.job.as_str());
    let standing = place.standing(job, overwrite, &document::writer_of)?;
    if standing == Standing::Done {
        return Ok(bytes);
    }
    place.must_have_room(bytes)?;
    let mut draft = place.draft()?;
    draft.file.write_all(&text).map_err(|source| place.failed("writing the side-car", source))?;
    place.publish(draft, standing, &document::writer_of)?;
    Ok(bytes)
}
