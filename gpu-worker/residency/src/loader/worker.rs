//! The threads of one load: each takes the next batch, reads it, hashes its slices and writes them to the extent.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    vec::IntoIter,
};

use blake3::hazmat::ChainingValue;
use tokio_util::sync::CancellationToken;

use super::{
    batch::{Batch, Slice},
    bounce::Bounce,
    file::Source,
    gate::Gate,
};
use crate::{arena::Draft, digest::SliceHasher, error::ResidencyError, progress::Progress, request::LoadRequest};

/// The hash of one slice.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) tensor: usize,
    pub(super) slice: usize,
    pub(super) value: ChainingValue,
}

/// Threads beyond the reads under way, at most: they hash and write what was read while the disk is kept busy. Disks, virtual
/// ones above all, complete reads in bursts; without these all threads would hash at once and read at once.
const READY: usize = 8;

/// What the threads of one load share.
pub(super) struct Shared<'a> {
    request: &'a LoadRequest,
    sources: &'a [Source],
    draft: &'a Draft,
    queue: Mutex<IntoIter<Batch>>,
    threads: usize,
    reading: Gate,
    cancel: &'a CancellationToken,
    progress: &'a Progress,
    stop: AtomicBool,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        request: &'a LoadRequest,
        sources: &'a [Source],
        draft: &'a Draft,
        batches: Vec<Batch>,
        readers: usize,
        cancel: &'a CancellationToken,
        progress: &'a Progress,
    ) -> Self {
        let threads = (readers + READY.min(readers)).min(batches.len()).max(1);
        let queue = Mutex::new(batches.into_iter());
        let reading = Gate::new(readers);
        Self { request, sources, draft, queue, threads, reading, cancel, progress, stop: AtomicBool::new(false) }
    }

    /// Runs all batches; this thread is one of the workers.
    pub(super) fn run(&self) -> Result<Vec<Piece>, ResidencyError> {
        thread::scope(|scope| {
            let mut helpers = Vec::with_capacity(self.threads - 1);
            let mut failed = None;
            for number in 1..self.threads {
                let builder = thread::Builder::new().name(format!("read-{number}"));
                match builder.spawn_scoped(scope, || self.work()) {
                    Ok(helper) => helpers.push(helper),
                    Err(error) => {
                        self.stop.store(true, Ordering::Release);
                        failed = Some(ResidencyError::Thread { source: Arc::new(error) });
                        break;
                    }
                }
            }
            let mut results = vec![failed.map_or_else(|| self.work(), Err)];
            results.extend(helpers.into_iter().map(|helper| {
                helper.join().unwrap_or_else(|_| Err(ResidencyError::Aborted { key: self.request.key.clone() }))
            }));
            let pieces: Vec<Vec<Piece>> = results.into_iter().collect::<Result<_, _>>()?;
            Ok(pieces.into_iter().flatten().collect())
        })
    }

    /// One worker. After another's error it returns quietly with what it has.
    fn work(&self) -> Result<Vec<Piece>, ResidencyError> {
        let mut bounce = Bounce::new(self.request.io.chunk()).map_err(|error| self.memory(error))?;
        let mut pieces = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            if self.cancel.is_cancelled() {
                self.stop.store(true, Ordering::Release);
                return Err(ResidencyError::Cancelled { key: self.request.key.clone() });
            }
            let Some(batch) = self.next() else { break };
            if let Err(error) = self.take(batch, &mut bounce, &mut pieces) {
                self.stop.store(true, Ordering::Release);
                return Err(error);
            }
        }
        Ok(pieces)
    }

    fn memory(&self, error: io::Error) -> ResidencyError {
        ResidencyError::Memory { bytes: self.draft.len(), source: Arc::new(error) }
    }

    fn next(&self) -> Option<Batch> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn take(&self, batch: Batch, bounce: &mut Bounce, pieces: &mut Vec<Piece>) -> Result<(), ResidencyError> {
        let bytes = if batch.begin == batch.end {
            &[][..]
        } else {
            let wanted = || !self.stop.load(Ordering::Acquire) && !self.cancel.is_cancelled();
            let Some(turn) = self.reading.turn(wanted) else { return Ok(()) };
            let read = self.sources[batch.file].read(bounce, batch.begin, batch.end, wanted)?;
            drop(turn);
            // not wanted any more: the caller looks at what was the reason
            let Some(bytes) = read else { return Ok(()) };
            bytes
        };
        if self.stop.load(Ordering::Acquire) || self.cancel.is_cancelled() {
            // a read that came back late: nobody wants its bytes
            return Ok(());
        }
        let at = |slice: &Slice| (slice.begin - batch.begin) as usize;
        let part = |slice: &Slice| &bytes[at(slice)..at(slice) + slice.len];
        pieces.extend(batch.slices.iter().map(|slice| hash(slice, part(slice))));
        self.write(&batch, part).map_err(|error| self.memory(error))?;
        let landed = batch.slices.iter().map(|slice| slice.len as u64).sum();
        let done = self.progress.add(landed);
        if let Some(observer) = &self.request.io.on_chunk {
            let _held = self.progress.hold();
            observer(done);
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
