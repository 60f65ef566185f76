//! What becomes of bytes that were read: their slices are hashed, then written to the extent.

use std::{io, sync::Arc};

use blake3::hazmat::ChainingValue;

use super::{
    batch::{Batch, Slice},
    crew::{Crew, Filled, Leaving},
};
use crate::{arena::Draft, digest::SliceHasher, error::ResidencyError};

/// The hash of one slice.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) tensor: usize,
    pub(super) slice: usize,
    pub(super) value: ChainingValue,
}

impl Crew<'_> {
    /// One that hashes and writes. After another's error it returns quietly.
    pub(super) fn finish_all(&self) -> Result<Vec<Piece>, ResidencyError> {
        let _leaving = Leaving(self, &self.free);
        let mut pieces = Vec::new();
        while let Some(Filled { batch, bounce, begin }) = self.filled.take(|| self.wanted()) {
            if !self.wanted() {
                // a read that came back late: nobody wants its bytes
                return self.why_not();
            }
            let bytes = bounce.bytes(begin, (batch.end - batch.begin) as usize);
            if let Err(error) = self.finish(&batch, bytes, &mut pieces) {
                self.stop();
                return Err(error);
            }
            self.free.put_first(bounce);
        }
        self.why_not().map(|_| pieces)
    }

    fn finish(&self, batch: &Batch, bytes: &[u8], pieces: &mut Vec<Piece>) -> Result<(), ResidencyError> {
        let at = |slice: &Slice| (slice.begin - batch.begin) as usize;
        let part = |slice: &Slice| &bytes[at(slice)..at(slice) + slice.len];
        pieces.extend(batch.slices.iter().map(|slice| hash(slice, part(slice))));
        let memory = |error| ResidencyError::Memory { bytes: self.draft.len(), source: Arc::new(error) };
        self.write(batch, part).map_err(memory)?;
        self.progress.complete(self.front.done(batch.number));
        let done = self.progress.add(batch.slices.iter().map(|slice| slice.len as u64).sum());
        if let Some(observer) = &self.request.io.on_chunk {
            let _held = self.progress.hold();
            observer(done, self.cancel);
        }
        Ok(())
    }

    /// Puts a batch where it belongs.
    fn write<'b>(&self, batch: &Batch, part: impl Fn(&Slice) -> &'b [u8]) -> io::Result<()> {
        let (from, to) = batch.target();
        let write = |draft: &Draft| batch.slices.iter().try_for_each(|slice| draft.write_at(part(slice), slice.to));
        self.draft.fill(from, to, write)
    }
}

fn hash(slice: &Slice, bytes: &[u8]) -> Piece {
    let mut hasher = SliceHasher::new(slice.offset, slice.whole);
    hasher.update(bytes);
    Piece { tensor: slice.tensor, slice: slice.index, value: hasher.finish() }
}
