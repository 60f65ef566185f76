//! The hashes that the world knows model files by, all in one pass over the file.
//!
//! | hash | of |
//! |---|---|
//! | BLAKE3 | the whole file |
//! | SHA-256 | the whole file; its first ten digits are AutoV2 |
//! | payload SHA-256 | what follows a safetensors header (AutoV3, `modelspec.hash_sha256`) |
//! | AutoV1 | 65 536 bytes at offset 1 048 576; first eight digits |

mod pass;
mod ranges;

use std::ops::{ControlFlow, Range};

use rustix::fs::{Advice, fadvise};

use crate::{error::FormatError, inspection::FileFacts, probe::Probe, safetensors::HEADER_LIMIT_BYTES};

/// Offset and length of what AutoV1 looks at.
const AUTOV1: (u64, u64) = (0x10_0000, 0x1_0000);
/// Digits of AutoV1 and AutoV2.
const AUTOV1_DIGITS: usize = 8;
const AUTOV2_DIGITS: usize = 10;

/// The hashes of one file, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHashes {
    /// BLAKE3 of the file.
    pub blake3: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// SHA-256 of what follows the header; only of safetensors files.
    pub payload_sha256: Option<String>,
    /// The old short hash: of a shorter file it is that of nothing.
    pub autov1: String,
}

impl FileHashes {
    /// The short hash that most tools show.
    #[must_use]
    pub fn autov2(&self) -> &str {
        self.sha256.get(..AUTOV2_DIGITS).unwrap_or(&self.sha256)
    }
}

/// What one pass over a file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// The hashes of the file.
    pub file: FileHashes,
    /// BLAKE3 of each range that was asked for; none for one that lies beyond the file.
    pub ranges: Vec<Option<[u8; 32]>>,
}

/// Hashes the file that `expected` describes, and `ranges` of it in the same pass. `on_chunk` is called with the size of every chunk that was read and may
/// take its time (a rate limit) or end the work, which gives `None`. The file's pages leave the cache behind the read.
///
/// # Errors
/// [`FormatError::Changed`] when the file is not, or does not stay, the one described; I/O errors.
pub fn hash_file(
    expected: &FileFacts,
    ranges: &[Range<u64>],
    on_chunk: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Hashed>, FormatError> {
    let probe = Probe::open(&expected.path, &expected.rel_path)?;
    probe.must_be(expected)?;
    let payload_begin = payload_begin(&probe)?;
    // advice: the kernel may ignore it, and nothing depends on it
    let _ = fadvise(&probe.file, 0, None, Advice::Sequential);
    let Some(hashed) = pass::run(&probe, payload_begin, ranges, on_chunk)? else { return Ok(None) };
    probe.check_unchanged()?;
    Ok(Some(hashed))
}

/// Where the data of a safetensors file begins; none for other files.
fn payload_begin(probe: &Probe) -> Result<Option<u64>, FormatError> {
    let head = probe.head()?;
    let (Some(length), Some(b'{')) = (head.first_chunk::<8>(), head.get(8)) else { return Ok(None) };
    let length = u64::from_le_bytes(*length);
    let begin = length.checked_add(8).filter(|begin| length <= HEADER_LIMIT_BYTES && *begin <= probe.facts.size);
    Ok(begin)
}

/// The digest of a model of several files: BLAKE3 over their names and BLAKE3s, whatever order they come in. A model
/// that is one file has that file's BLAKE3.
#[must_use]
pub fn content_digest(files: &[(&str, &str)]) -> Option<String> {
    match files {
        [] => None,
        [(_, only)] => Some((*only).to_owned()),
        several => {
            let mut sorted = several.to_vec();
            sorted.sort_unstable();
            let mut hasher = blake3::Hasher::new();
            for (name, digest) in sorted {
                // lengths go in front: no two lists have the same bytes
                for text in [name, digest] {
                    hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
                    hasher.update(text.as_bytes());
                }
            }
            Some(hasher.finalize().to_hex().to_string())
        }
    }
}

#[cfg(test)]
mod tests;
