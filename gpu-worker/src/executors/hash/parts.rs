//! The parts of a model while its files are hashed: each component's digest and the list of its tensors, so that equal
//! components meet before any of them is loaded.

use std::{
    collections::HashMap,
    fs::File,
    ops::{ControlFlow, Range},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use model_formats::{FormatError, Inspection};
use residency::{
    Digest, GatheredTensor, LoadRequest,
    digest::{TensorFacts, component_digest},
};
use shared::{
    db::{
        hashes::Unhashed,
        models::{self, ComponentRow, FileIdentity, FileKey, TensorRow},
    },
    ids::ComponentId,
};

use crate::{
    catalogue,
    context::Agent,
    error::WorkError,
    executors::model::blocking,
    judge,
    load_request::{load_request, tensor_rows},
};

/// A component as the catalogue and the file know it.
struct Part {
    id: ComponentId,
    kind: String,
    /// Known without a read.
    digest: Option<String>,
    request: LoadRequest,
    tensors: Vec<TensorRow>,
}

/// What is known of one part after the pass.
#[derive(Debug)]
pub struct HashedPart {
    /// The component.
    pub id: ComponentId,
    /// The part that it plays in the model.
    pub kind: String,
    /// Digest of its tensors.
    pub digest: String,
    /// It is that of the same files under another name, and nothing was read for it.
    pub is_taken_over: bool,
    /// Its tensors in the files.
    pub tensors: Vec<TensorRow>,
    /// The files that they are in.
    pub files: Vec<FileKey>,
}

/// The parts of one model, and the hashes of their plain tensors as they come.
#[derive(Default)]
pub(in crate::executors) struct Parts {
    parts: Vec<Part>,
    /// Hashes by part and tensor of its request.
    hashes: HashMap<(usize, usize), [u8; 32]>,
}

/// Ranges of one file with the part and tensor of each.
pub(in crate::executors) type Wanted = Vec<((usize, usize), Range<u64>)>;

impl Parts {
    /// Reads the headers of a model whose files are `files`.
    ///
    /// # Errors
    /// [`WorkError::Changed`] when they are other files by now; what a read of headers fails with; database errors.
    pub(super) async fn read(
        agent: &Agent,
        model: &Unhashed,
        path: &Path,
        files: &[FileIdentity],
    ) -> Result<Self, WorkError> {
        let rows = models::components_of(&agent.pool, &[model.id]).await?;
        let mut read = Self::default();
        if !rows.is_empty() {
            let (at, correction) = (path.to_owned(), catalogue::correction(&model.read_as));
            let inspection = blocking("reading headers", move || model_formats::inspect_as(&at, correction)).await?;
            let inspection =
                inspection.map_err(|source| WorkError::Format { path: path.display().to_string(), source })?;
            catalogue::check_unchanged(files, &inspection)?;
            read = Self::of(&rows, &inspection);
        }
        Ok(read)
    }

    /// Of headers that were read. A part that the file has no more is gone with the next scan.
    pub(in crate::executors) fn of(rows: &[ComponentRow], inspection: &Inspection) -> Self {
        let part = |row: &ComponentRow| {
            let request = load_request(row, inspection)?;
            let tensors = tensor_rows(&row.kind, inspection);
            Some(Part { id: row.id, kind: row.kind.clone(), digest: None, request, tensors })
        };
        Self { parts: rows.iter().filter_map(part).collect(), hashes: HashMap::new() }
    }

    /// Takes over the digests of parts of the same files under another name: those need no read.
    pub(super) fn take_over(&mut self, mut twins: HashMap<String, String>) {
        for part in &mut self.parts {
            part.digest = twins.remove(&part.kind);
        }
    }

    /// The tensors that lie in one run in this file and are to be hashed.
    pub(in crate::executors) fn wanted(&self, file: &Path) -> Wanted {
        let mut wanted = Vec::new();
        let unknown = |(_, part): &(usize, &Part)| part.digest.is_none();
        for (part, Part { request, .. }) in self.parts.iter().enumerate().filter(unknown) {
            for (tensor, range) in request.tensors.iter().enumerate() {
                if request.sources.get(range.file_index).is_some_and(|source| source.path == file) {
                    wanted.push(((part, tensor), range.begin..range.end));
                }
            }
        }
        wanted
    }

    /// Notes what the pass over a file gave for its ranges.
    pub(in crate::executors) fn note(&mut self, wanted: &Wanted, hashes: Vec<Option<[u8; 32]>>) {
        let known = wanted.iter().zip(hashes).filter_map(|((at, _), hash)| Some((*at, hash?)));
        self.hashes.extend(known);
    }

    /// The digests, after all files; reads the tensors that are put together from pieces. None when `pace` stops it.
    ///
    /// # Errors
    /// I/O errors.
    pub(in crate::executors) fn finish(
        self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Vec<HashedPart>>, FormatError> {
        let mut done = Vec::new();
        for (number, part) in self.parts.into_iter().enumerate() {
            let plain = |index| self.hashes.get(&(number, index)).copied();
            let is_taken_over = part.digest.is_some();
            let digest = match part.digest {
                Some(known) => known,
                None => match digest(&part.request, plain, pace)? {
                    Some(digest) => digest,
                    None => return Ok(None),
                },
            };
            let files = part.request.sources.iter().map(judge::key).collect();
            let Part { id, kind, tensors, .. } = part;
            done.push(HashedPart { id, kind, digest, is_taken_over, tensors, files });
        }
        Ok(Some(done))
    }
}

/// Digest of a component from the hashes of its plain tensors; the gathered ones are read.
fn digest(
    request: &LoadRequest,
    plain: impl Fn(usize) -> Option<[u8; 32]>,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<String>, FormatError> {
    let mut facts = Vec::with_capacity(request.tensors.len().saturating_add(request.gathered.len()));
    for (index, tensor) in request.tensors.iter().enumerate() {
        let hash = plain(index).ok_or_else(|| FormatError::Io {
            path: request.sources.get(tensor.file_index).map(|source| source.path.clone()).unwrap_or_default(),
            doing: "hashing a tensor",
            source: std::io::ErrorKind::UnexpectedEof.into(),
        })?;
        let (name, dtype, shape) = (&tensor.name, &tensor.dtype, &tensor.shape);
        let len = tensor.end.saturating_sub(tensor.begin);
        facts.push(TensorFacts { name, dtype, shape, len, digest: Digest::from_bytes(hash) });
    }
    for tensor in &request.gathered {
        let Some(bytes) = gathered(request, tensor, pace)? else { return Ok(None) };
        let (name, dtype, shape) = (&tensor.name, &tensor.dtype, &tensor.shape);
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        facts.push(TensorFacts { name, dtype, shape, len, digest: Digest::of(&bytes) });
    }
    Ok(Some(component_digest(&facts).to_string()))
}

fn gathered(
    request: &LoadRequest,
    tensor: &GatheredTensor,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Vec<u8>>, FormatError> {
    let element_bytes = usize::try_from(tensor.element_bytes).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    for part in &tensor.parts {
        let size = part.end.saturating_sub(part.begin);
        let path = request.sources.get(part.file_index).map(|source| source.path.clone()).unwrap_or_default();
        let stored = read(&path, part.begin, size)?;
        part.append(&stored, element_bytes, &mut bytes);
        if pace(size).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

fn read(path: &PathBuf, begin: u64, size: u64) -> Result<Vec<u8>, FormatError> {
    let fail = |source| FormatError::Io { path: path.clone(), doing: "reading a tensor", source };
    let mut stored = vec![0; usize::try_from(size).map_err(|error| fail(std::io::Error::other(error)))?];
    File::open(path).and_then(|file| file.read_exact_at(&mut stored, begin)).map_err(fail)?;
    Ok(stored)
}
