//! Disk → memory: exactly a component's tensor ranges, in parallel, hashed in the same pass, from files that do not change meanwhile.
//!
//! Files are read, never mapped: a file that shrinks is an error here, and would be a SIGBUS there.
//! The unit of work is a batch of adjacent slices, at most one chunk long; any thread may take any
//! batch in any order, because slices are hashed as subtrees (see [`crate::digest`]). Threads that read do nothing else.

mod batch;
mod bounce;
mod crew;
#[cfg(test)]
mod crew_tests;
mod disk;
mod file;
mod finish;
mod front;
mod gate;
mod gather;
mod handoff;
mod hung;
mod tuning;
mod watchdog;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    arena::Draft,
    digest::{Digest, TensorFacts, component_digest, merge_slices},
    error::ResidencyError,
    layout::{Layout, PlacedTensor},
    progress::{Phase, Progress},
    request::LoadRequest,
};
use crew::Crew;
pub use disk::Disks;
use disk::Session;
pub use file::ReadMode;
use file::Source;
use gather::Gathering;
pub use hung::{Afoot, Hung, Reading};
pub(crate) use watchdog::{Verdict, Watchdog};

/// What a load read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Digest of the component.
    pub digest: Digest,
    /// Tensor bytes.
    pub bytes: u64,
    /// Duration of reading and verifying.
    pub took: Duration,
    /// How each source was read in the end.
    pub modes: Vec<ReadMode>,
}

/// Reads a checked request into `draft`, which has the layout's extent length, and verifies it. Says through `reading` which
/// disks have not answered. Blocks; meant for a thread of its own.
///
/// # Errors
/// See [`ResidencyError`]; `draft` holds rubbish then and must be dropped.
pub fn load(
    request: &LoadRequest,
    layout: &Layout,
    draft: &Draft,
    cancel: &CancellationToken,
    progress: &Progress,
    disks: &Disks,
    reading: &Reading,
) -> Result<Loaded, ResidencyError> {
    let started = Instant::now();
    progress.enter(Phase::Reading);
    let open = |source| Source::open(source, &request.io, disks, reading);
    let sources: Vec<Source<'_>> = request.sources.iter().map(open).collect::<Result<_, _>>()?;
    let session = sources.first().map(|source| source.disk().begin(request.io.threads()));
    let readers = session.as_ref().map_or(1, Session::readers);
    let chunk = request.io.chunk();
    let batches = batch::plan(request, layout, chunk);
    let (plain, gathered) = layout.tensors.split_at(layout.order.len());
    let counts: Vec<usize> = plain.iter().map(|t| batch::slices(t.len, chunk)).collect();
    let crew = Crew::new(request, &sources, draft, batches, readers, cancel, progress)?;
    let pieces = crew.run().map_err(|error| explain(error, &sources))?;
    learn(session.as_ref(), &sources, plain, started.elapsed());
    // its buffers go before what is gathered needs some
    drop(crew);
    let gathering = Gathering { request, sources: &sources, draft, cancel, progress };
    let whole = gathering.run(gathered).map_err(|error| explain(error, &sources))?;
    // The rounding at the end belongs to the component too: what the ledger says is what is allocated.
    let end = layout.tensors.last().map_or(0, |tensor| tensor.offset + tensor.len);
    draft
        .allocate(end, draft.len())
        .map_err(|error| ResidencyError::Memory { bytes: draft.len(), source: Arc::new(error) })?;
    progress.complete(draft.len());
    progress.enter(Phase::Verifying);
    sources.iter().try_for_each(Source::verify_unchanged)?;
    let digest = digest_of(layout, &counts, pieces, whole)
        .ok_or_else(|| ResidencyError::Aborted { key: request.key.clone() })?;
    if let Some(expected) = request.expected_digest.filter(|expected| *expected != digest) {
        return Err(ResidencyError::DigestMismatch { key: request.key.clone(), expected, actual: digest });
    }
    let modes = sources.iter().map(Source::mode).collect();
    Ok(Loaded { digest, bytes: layout.tensor_bytes, took: started.elapsed(), modes })
}

/// What the parallel reads reached is remembered for their disk, when they went around the page cache and one disk gave all
/// of it.
fn learn(session: Option<&Session>, sources: &[Source<'_>], read: &[PlacedTensor], took: Duration) {
    let (Some(session), Some(first)) = (session, sources.first()) else { return };
    let of_disk = |source: &Source<'_>| source.mode() == ReadMode::Direct && Arc::ptr_eq(source.disk(), first.disk());
    if sources.iter().all(of_disk) {
        session.learn(read.iter().map(|tensor| tensor.len).sum(), took);
    }
}

/// A read that fails because the file changed says so, not the symptom.
fn explain(error: ResidencyError, sources: &[Source<'_>]) -> ResidencyError {
    let (ResidencyError::ShortRead { path, .. } | ResidencyError::Io { path, .. }) = &error else {
        return error;
    };
    let changed =
        sources.iter().filter(|source| source.path() == path).find_map(|source| source.verify_unchanged().err());
    changed.unwrap_or(error)
}

/// Merges the slices; `None` if one is missing, which would be a bug in the batches.
fn digest_of(layout: &Layout, counts: &[usize], pieces: Vec<finish::Piece>, whole: Vec<Digest>) -> Option<Digest> {
    let mut values: Vec<Vec<Option<_>>> = counts.iter().map(|count| vec![None; *count]).collect();
    for piece in pieces {
        *values.get_mut(piece.tensor)?.get_mut(piece.slice)? = Some(piece.value);
    }
    let sliced = values.into_iter().map(|slices| merge_slices(&slices.into_iter().collect::<Option<Vec<_>>>()?));
    let mut facts = Vec::with_capacity(layout.tensors.len());
    for (tensor, digest) in layout.tensors.iter().zip(sliced.chain(whole.into_iter().map(Some))) {
        let (name, dtype, shape) = (&tensor.name, &tensor.dtype, &tensor.shape);
        facts.push(TensorFacts { name, dtype, shape, len: tensor.len, digest: digest? });
    }
    if facts.len() != layout.tensors.len() {
        return None;
    }
    Some(component_digest(&facts))
}
