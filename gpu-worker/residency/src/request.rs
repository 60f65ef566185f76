//! What a caller asks for: a component's key, its files, its tensors, and how to read them.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use crate::{
    digest::Digest,
    error::ResidencyError,
    gather::GatheredTensor,
    identity::{FileIdentity, SourceFile},
    policy::bandwidth::ReadFrom,
};

/// Name of a component in this tier. Opaque: callers use a content digest or, before one is known, a
/// file identity.
pub type Key = Arc<str>;

/// One tensor as a byte range of one source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRange {
    /// Name, unique within the request.
    pub name: String,
    /// Element type as the format writes it (`F16`, `BF16`, …); opaque here, part of the digest.
    pub dtype: String,
    /// Dimensions, outermost first; opaque here, part of the digest.
    pub shape: Vec<u64>,
    /// Index into [`LoadRequest::sources`].
    pub file_index: usize,
    /// First byte in the file.
    pub begin: u64,
    /// One past the last byte in the file.
    pub end: u64,
}

/// A component to make resident.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// The component.
    pub key: Key,
    /// The files, with the identity under which the ranges are valid.
    pub sources: Vec<SourceFile>,
    /// The component's tensors; nothing else of the files is read (but alignment and small gaps).
    pub tensors: Vec<TensorRange>,
    /// Tensors that are put together from several places or in another order; names are unique over both lists.
    pub gathered: Vec<GatheredTensor>,
    /// The registered content digest, if known. What is read must have it.
    pub expected_digest: Option<Digest>,
    /// Who asks for it: a load that begins is theirs.
    pub wanted_by: Option<Arc<str>>,
    /// How to read.
    pub io: IoOptions,
}

/// Whether to go around the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direct {
    /// `O_DIRECT` where the file system takes it, else buffered; the load's report says which.
    #[default]
    Auto,
    /// `O_DIRECT` or an error.
    On,
    /// Buffered reads.
    Off,
}

/// Called after each chunk with the bytes landed so far, and what says that nobody wants the load any more. Runs on loader threads: what
/// it does slows the load down.
pub type ChunkObserver = Arc<dyn Fn(u64, &CancellationToken) + Send + Sync>;

/// How a load reads.
#[derive(Clone)]
pub struct IoOptions {
    /// Threads that read and hash; 0: as many as proved best for the disk.
    pub threads: usize,
    /// Bytes of one read, also the slice that is hashed on its own: rounded to a power of two in
    /// [64 KiB, 64 MiB]. Cancellation is looked at before each.
    pub chunk_bytes: usize,
    /// Page cache or not.
    pub direct: Direct,
    /// Open a source although its last path element is a symbolic link.
    pub follow_symlinks: bool,
    /// Told of each chunk.
    pub on_chunk: Option<ChunkObserver>,
}

/// Measured beside 1, 4 and 8 MiB: the largest that is still in the cache when it is hashed and copied.
pub const DEFAULT_CHUNK_BYTES: usize = 2 << 20;
const CHUNK_MIN: usize = 64 << 10;
const CHUNK_MAX: usize = 64 << 20;
const THREADS_MAX: usize = 64;

impl Default for IoOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            direct: Direct::Auto,
            follow_symlinks: false,
            on_chunk: None,
        }
    }
}

impl IoOptions {
    /// The chunk really used: hashing slices on their own needs a power of two.
    pub fn chunk(&self) -> usize {
        let wanted = self.chunk_bytes.clamp(CHUNK_MIN, CHUNK_MAX);
        1 << (usize::BITS - 1 - wanted.leading_zeros())
    }

    /// The number of threads that the caller fixed.
    pub fn threads(&self) -> Option<usize> {
        (self.threads > 0).then(|| self.threads.min(THREADS_MAX))
    }
}

impl fmt::Debug for IoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoOptions")
            .field("threads", &self.threads)
            .field("chunk_bytes", &self.chunk_bytes)
            .field("direct", &self.direct)
            .field("follow_symlinks", &self.follow_symlinks)
            .field("on_chunk", &self.on_chunk.is_some())
            .finish()
    }
}

impl LoadRequest {
    /// Bytes of all tensors, without padding.
    pub fn tensor_bytes(&self) -> u64 {
        let plain = self.tensors.iter().fold(0, |sum: u64, t| sum.saturating_add(t.end.saturating_sub(t.begin)));
        self.gathered.iter().fold(plain, |sum, t| sum.saturating_add(t.checked_bytes().unwrap_or(0)))
    }

    /// Bytes that the tensors take from each device, by its number.
    pub fn read_from(&self) -> Vec<ReadFrom> {
        let plain = self.tensors.iter().map(|t| (t.file_index, t.end.saturating_sub(t.begin)));
        let parts = self.gathered.iter().flat_map(|t| &t.parts);
        let gathered = parts.map(|part| (part.file_index, part.end.saturating_sub(part.begin)));
        let mut by_device: BTreeMap<u64, u64> = BTreeMap::new();
        for (file, bytes) in plain.chain(gathered) {
            if let Some(source) = self.sources.get(file) {
                let sum = by_device.entry(source.expected.dev).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        by_device.into_iter().map(|(device, bytes)| ReadFrom { device, bytes }).collect()
    }

    /// The identities alone, which with the key say which content is meant.
    pub fn identities(&self) -> Vec<FileIdentity> {
        self.sources.iter().map(|source| source.expected).collect()
    }

    /// Refuses what contradicts itself: no file, ranges that run backwards or beyond their file,
    /// names that appear twice.
    ///
    /// # Errors
    /// `BadRequest` or `OutOfBounds`.
    pub fn check(&self) -> Result<(), ResidencyError> {
        let bad = |reason: String| ResidencyError::BadRequest { key: self.key.clone(), reason };
        if self.sources.is_empty() {
            return Err(bad("no source file".into()));
        }
        let mut names = HashSet::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(bad(format!("tensor `{}` appears twice", tensor.name)));
            }
            let Some(source) = self.sources.get(tensor.file_index) else {
                return Err(bad(format!("tensor `{}` names no source file", tensor.name)));
            };
            if tensor.begin > tensor.end {
                return Err(bad(format!("tensor `{}` ends before it begins", tensor.name)));
            }
            within(source, &tensor.name, tensor.end)?;
        }
        for tensor in &self.gathered {
            if !names.insert(tensor.name.as_str()) {
                return Err(bad(format!("tensor `{}` appears twice", tensor.name)));
            }
            if tensor.checked_bytes().is_none() {
                return Err(bad(format!("the parts of tensor `{}` do not add up to it", tensor.name)));
            }
            for part in &tensor.parts {
                let Some(source) = self.sources.get(part.file_index) else {
                    return Err(bad(format!("tensor `{}` names no source file", tensor.name)));
                };
                within(source, &tensor.name, part.end)?;
            }
        }
        Ok(())
    }
}

fn within(source: &SourceFile, tensor: &str, end: u64) -> Result<(), ResidencyError> {
    if end <= source.expected.size {
        return Ok(());
    }
    Err(ResidencyError::OutOfBounds {
        path: source.path.clone(),
        tensor: tensor.to_owned(),
        end,
        file_bytes: source.expected.size,
    })
}
