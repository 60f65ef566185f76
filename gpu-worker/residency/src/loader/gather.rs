//! The gathered tensors of a load: read part by part, put in order, hashed and written, one tensor at a time.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{bounce::Bounce, file::Source};
use crate::{
    arena::Draft,
    digest::Digest,
    error::ResidencyError,
    gather::{GatheredTensor, Part},
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
    /// Brings all gathered tensors to their places; their hashes, in order. Beside the extent it holds one tensor and
    /// the stored bytes of one part at a time.
    pub(super) fn run(&self, placed: &[PlacedTensor]) -> Result<Vec<Digest>, ResidencyError> {
        if placed.is_empty() {
            return Ok(Vec::new());
        }
        let mut bounce = Bounce::new(self.request.io.chunk())
            .map_err(|error| ResidencyError::Memory { bytes: self.draft.len(), source: Arc::new(error) })?;
        let of = |(tensor, place)| self.one(tensor, place, &mut bounce);
        self.request.gathered.iter().zip(placed).map(of).collect()
    }

    fn one(
        &self,
        tensor: &GatheredTensor,
        placed: &PlacedTensor,
        bounce: &mut Bounce,
    ) -> Result<Digest, ResidencyError> {
        let mut bytes = Vec::with_capacity(placed.len as usize);
        for part in &tensor.parts {
            let stored = self.stored(part, bounce)?;
            part.append(&stored, tensor.element_bytes as usize, &mut bytes);
        }
        let memory = |error| ResidencyError::Memory { bytes: self.draft.len(), source: Arc::new(error) };
        let write = |draft: &Draft| draft.write_at(&bytes, placed.offset);
        self.draft.fill(placed.offset, placed.offset + placed.len, write).map_err(memory)?;
        // one after the other, behind all that the crew has brought
        self.progress.complete(placed.offset + placed.len);
        let done = self.progress.add(placed.len);
        if let Some(observer) = &self.request.io.on_chunk {
            let _held = self.progress.hold();
            observer(done);
        }
        Ok(Digest::from_bytes(*blake3::hash(&bytes).as_bytes()))
    }

    fn stored(&self, part: &Part, bounce: &mut Bounce) -> Result<Vec<u8>, ResidencyError> {
        let mut stored = Vec::with_capacity((part.end - part.begin) as usize);
        let mut at = part.begin;
        while at < part.end {
            let end = part.end.min(at + self.request.io.chunk() as u64);
            let wanted = || !self.cancel.is_cancelled();
            let read = if wanted() { self.sources[part.file_index].read(bounce, at, end, wanted)? } else { None };
            let cancelled = || ResidencyError::Cancelled { key: self.request.key.clone() };
            let begin = read.ok_or_else(cancelled)?;
            stored.extend_from_slice(bounce.bytes(begin, (end - at) as usize));
            self.progress.read();
            at = end;
        }
        Ok(stored)
    }
}
