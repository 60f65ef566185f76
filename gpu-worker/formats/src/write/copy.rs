//! Re-headed copies: the same tensors under a header with more metadata, streamed.

use std::{collections::BTreeMap, fmt::Write as _, io::Write, ops::ControlFlow, path::Path};

use sha2::{Digest, Sha256};

use super::{JOB_KEY, Place, Standing, WriteError, header};
use crate::{
    inspection::FileFacts,
    probe::Probe,
    safetensors::{self, Header},
};

/// Bytes that are read and written at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// A copy to be made.
#[derive(Debug)]
pub struct Copy {
    /// Fields that are set beside those that the file has; fields of the same name are replaced.
    pub metadata: BTreeMap<String, String>,
    /// SHA-256 of what follows the header, where it is known: other bytes are not passed on under its name.
    pub payload_sha256: Option<String>,
    /// Id of the job.
    pub job: String,
    /// Replace a copy that an earlier job wrote.
    pub overwrite: bool,
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of what follows its header; none when an interrupted attempt of the same job had made it already.
    pub payload_sha256: Option<String>,
}

impl Copy {
    /// Bytes that a copy of the safetensors file at `from` will have.
    ///
    /// # Errors
    /// [`WriteError`] when it is no such file or the header gets too long.
    pub fn bytes(&self, from: &Path) -> Result<u64, WriteError> {
        let old = safetensors::read(from, "")?;
        let header = header::bytes(&old, &self.fields(&old))?;
        Ok((header.len() as u64).saturating_add(old.file.size.saturating_sub(old.data_begin)))
    }

    /// Makes the copy of `from`, which must be the file that was `seen`. `pace` is told of every chunk of bytes.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn make(
        &self,
        from: &Path,
        seen: &FileFacts,
        place: &Place,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Copied, WriteError> {
        let source = Probe::open(from, "")?;
        source.must_be(seen)?;
        let old = safetensors::read(from, "")?;
        let header = header::bytes(&old, &self.fields(&old))?;
        let bytes = (header.len() as u64).saturating_add(seen.size.saturating_sub(old.data_begin));
        let standing = place.standing(Some(&self.job), self.overwrite, &writer_of)?;
        if standing == Standing::Done {
            return Ok(Copied { bytes, payload_sha256: None });
        }
        place.must_have_room(bytes)?;
        let mut draft = place.draft()?;
        draft.file.write_all(&header).map_err(|source| place.failed("writing the header", source))?;
        let payload = stream(&source, old.data_begin, &mut draft.file, place, pace)?;
        source.check_unchanged()?;
        if let Some(expected) = self.payload_sha256.clone().filter(|expected| *expected != payload) {
            return Err(WriteError::OtherBytes { path: from.to_owned(), expected, found: payload });
        }
        place.publish(draft, standing, &writer_of)?;
        Ok(Copied { bytes, payload_sha256: Some(payload) })
    }

    fn fields(&self, old: &Header) -> BTreeMap<String, String> {
        let mut fields = old.metadata.clone();
        fields.extend(self.metadata.clone());
        fields.insert(JOB_KEY.to_owned(), self.job.clone());
        fields
    }
}

/// Passes on everything from `begin`; its SHA-256.
fn stream(
    source: &Probe,
    begin: u64,
    to: &mut std::fs::File,
    place: &Place,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<String, WriteError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut at, mut hash) = (begin, Sha256::new());
    while at < source.facts.size {
        let left = source.facts.size.saturating_sub(at);
        let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let chunk = buffer.get_mut(..wanted).unwrap_or_default();
        source.read_data(chunk, at)?;
        hash.update(&*chunk);
        to.write_all(chunk).map_err(|source| place.failed("writing the copy", source))?;
        at = at.saturating_add(wanted as u64);
        if pace(wanted as u64).is_break() {
            return Err(WriteError::Stopped);
        }
    }
    let mut hex = String::new();
    for byte in hash.finalize() {
        // writing to a string cannot fail
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

/// The job that wrote the copy at `path`; none when it is somebody else's file.
pub(super) fn writer_of(path: &Path) -> Option<String> {
    safetensors::read(path, "").ok()?.metadata.get(JOB_KEY).cloned()
}
