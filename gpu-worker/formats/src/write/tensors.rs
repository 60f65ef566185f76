//! A new safetensors file of tensors that are in memory.

use std::{collections::BTreeMap, fmt::Write as _, io::Write, ops::ControlFlow};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Copied, JOB_KEY, Place, Standing, WriteError, copy::writer_of, header::framed};
use crate::Dtype;

/// Bytes that are written at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Where ModelSpec has the SHA-256 of what follows the header.
const PAYLOAD_KEY: &str = "modelspec.hash_sha256";

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct NewTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Its bytes, row by row.
    pub bytes: &'a [u8],
}

/// A file to be written.
#[derive(Debug)]
pub struct NewFile<'a> {
    /// Fields of the header; the job's and the payload's hash come to them.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors, each name once.
    pub tensors: Vec<NewTensor<'a>>,
    /// Id of the job.
    pub job: String,
    /// Replace a file that an earlier job wrote.
    pub overwrite: bool,
}

impl NewFile<'_> {
    /// Writes the file. `pace` is told of every chunk of bytes.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn make(mut self, place: &Place, pace: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Copied, WriteError> {
        // wide types first: every tensor then begins at a multiple of its width
        self.tensors.sort_by(|a, b| b.dtype.bits().cmp(&a.dtype.bits()).then(a.name.cmp(b.name)));
        let payload = self.payload();
        let header = self.header(place, &payload)?;
        let bytes = self.tensors.iter().map(|tensor| tensor.bytes.len()).sum::<usize>() + header.len();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let standing = place.standing(Some(&self.job), self.overwrite, &writer_of)?;
        if standing == Standing::Done {
            return Ok(Copied { bytes, payload_sha256: None });
        }
        place.must_have_room(bytes)?;
        let mut draft = place.draft()?;
        draft.file.write_all(&header).map_err(|source| place.failed("writing the header", source))?;
        for chunk in self.tensors.iter().flat_map(|tensor| tensor.bytes.chunks(CHUNK_BYTES)) {
            draft.file.write_all(chunk).map_err(|source| place.failed("writing tensors", source))?;
            if pace(chunk.len() as u64).is_break() {
                return Err(WriteError::Stopped);
            }
        }
        place.publish(draft, standing, &writer_of)?;
        Ok(Copied { bytes, payload_sha256: Some(payload) })
    }

    fn header(&self, place: &Place, payload: &str) -> Result<Vec<u8>, WriteError> {
        let mut fields = self.metadata.clone();
        fields.insert(JOB_KEY.to_owned(), self.job.clone());
        fields.insert(PAYLOAD_KEY.to_owned(), format!("0x{payload}"));
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!(fields));
        let mut at = 0;
        for tensor in &self.tensors {
            let end = at + tensor.bytes.len();
            let entry = json!({ "dtype": tensor.dtype.as_str(), "shape": tensor.shape, "data_offsets": [at, end] });
            entries.insert(tensor.name.to_owned(), entry);
            at = end;
        }
        framed(&Value::Object(entries), &place.path())
    }

    /// SHA-256 of all tensors as they will lie in the file.
    fn payload(&self) -> String {
        let mut hash = Sha256::new();
        self.tensors.iter().for_each(|tensor| hash.update(tensor.bytes));
        hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            // writing to a string cannot fail
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}
