//! The gathered tensors of a load: read part by part, put in order, hashed and written, one tensor at a time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio_util::sync::CancellationToken;

use super::{bounce::Bounce, file::Source};
use crate::{
    arena::Draft,
    digest::Digest,
    error::ResidencyError,
    gather::{GatheredTensor, Part, PartOrder},
    layout::PlacedTensor,
    progress::Progress,
    request::LoadRequest,
};

/// What the gathering of one load needs.
pub(super) struct Gathering<'a> {
    pub(super) request: &'a LoadRequest,
    pub(super) sources: &'a [Source<'a>],
    pub(super) draft: &'a Draft,
    pub(super) cancel: &'a CancellationToken,
    pub(super) progress: &'a Progress,
}

impl Gathering<'_> {
    /// Brings all gathered tensors to their places; their hashes, in order. A thread makes the memory a little ahead of them.
    /// Beside it there are one part that is turned, with its stored bytes, or a chunk of one that is not.
    pub(super) fn run(&self, placed: &[PlacedTensor]) -> Result<Vec<Digest>, ResidencyError> {
        let Some(end) = placed.last().map(|last| last.offset + last.len) else { return Ok(Vec::new()) };
        let mut bounce = Bounce::new(self.request.io.chunk()).map_err(|error| self.no_memory(error))?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let over = &over;
            let wanted = move || !over.load(Ordering::Acquire) && !self.cancel.is_cancelled();
            let make = move || self.draft.back(end, self.draft.len(), wanted);
            let maker = thread::Builder::new().name("load-memory".into()).spawn_scoped(scope, make);
            let maker = maker.map_err(|error| ResidencyError::Thread { source: Arc::new(error) })?;
            let of = |(tensor, place)| self.one(tensor, place, &mut bounce);
            let leaving = Leaving(over);
            let digests: Result<Vec<_>, _> = self.request.gathered.iter().zip(placed).map(of).collect();
            drop(leaving);
            let made = maker.join().map_err(|_| ResidencyError::Aborted { key: self.request.key.clone() })?;
            // a tensor that cannot be gathered is the reason, and not the memory that was not made for the rest
            let digests = digests?;
            made.map_err(|error| self.no_memory(error))?;
            Ok(digests)
        })
    }

    fn no_memory(&self, error: io::Error) -> ResidencyError {
        ResidencyError::Memory { bytes: self.draft.len(), source: Arc::new(error) }
    }

    fn one(
        &self,
        tensor: &GatheredTensor,
        placed: &PlacedTensor,
        bounce: &mut Bounce,
    ) -> Result<Digest, ResidencyError> {
        let mut to = Target { gathering: self, at: placed.offset, hasher: blake3::Hasher::new() };
        for part in &tensor.parts {
            match &part.order {
                PartOrder::RowMajor => self.stored(part, bounce, |bytes| to.put(bytes))?,
                PartOrder::Strided { .. } => {
                    let mut stored = Vec::with_capacity((part.end - part.begin) as usize);
                    self.stored(part, bounce, |bytes| {
                        stored.extend_from_slice(bytes);
                        Ok(())
                    })?;
                    let mut turned = Vec::with_capacity(placed.len as usize);
                    part.append(&stored, tensor.element_bytes as usize, &mut turned);
                    to.put(&turned)?;
                }
            }
        }
        // one after the other, behind all that the crew has brought
        self.progress.complete(placed.offset + placed.len);
        let done = self.progress.add(placed.len);
        if let Some(observer) = &self.request.io.on_chunk {
            let _held = self.progress.hold();
            observer(done, self.cancel);
        }
        Ok(Digest::from_bytes(*to.hasher.finalize().as_bytes()))
    }

    /// The stored bytes of a part, a chunk at a time.
    fn stored(
        &self,
        part: &Part,
        bounce: &mut Bounce,
        mut each: impl FnMut(&[u8]) -> Result<(), ResidencyError>,
    ) -> Result<(), ResidencyError> {
        let mut at = part.begin;
        while at < part.end {
            let end = part.end.min(at + self.request.io.chunk() as u64);
            let wanted = || !self.cancel.is_cancelled();
            let read = if wanted() { self.sources[part.file_index].read(bounce, at, end, wanted)? } else { None };
            let cancelled = || ResidencyError::Cancelled { key: self.request.key.clone() };
            let begin = read.ok_or_else(cancelled)?;
            self.progress.read();
            each(bounce.bytes(begin, (end - at) as usize))?;
            at = end;
        }
        Ok(())
    }
}

/// However gathering ends, nobody makes memory for it any more.
struct Leaving<'a>(&'a AtomicBool);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Where the next bytes of a gathered tensor go.
struct Target<'a> {
    gathering: &'a Gathering<'a>,
    at: u64,
    hasher: blake3::Hasher,
}

impl Target<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ResidencyError> {
        let (draft, begin) = (self.gathering.draft, self.at);
        self.at += bytes.len() as u64;
        self.hasher.update(bytes);
        let write = |draft: &Draft| draft.write_at(bytes, begin);
        draft.fill(begin, self.at, write).map_err(|error| self.gathering.no_memory(error))
    }
}
