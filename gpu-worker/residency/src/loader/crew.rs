//! The threads of one load. One makes the extent's memory, some only read, so that the disk always has something to do, others
//! hash what was read and write it to the extent. Buffers go around between them.
//!
//! Disks, virtual ones above all, complete the reads that they were given in bursts. A thread that hashed what it has read
//! would then leave the disk without work until it is done; one that has a second buffer asks for the next read at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

use tokio_util::sync::CancellationToken;

use super::{batch::Batch, bounce::Bounce, file::Source, finish::Piece, front::Front, handoff::Handoff};
use crate::{arena::Draft, error::ResidencyError, progress::Progress, request::LoadRequest};

/// Buffers beyond the reads under way, at most: what was read and is not hashed yet. Room for the burst of a disk that
/// completes all its reads at once.
const READY: usize = 8;
/// Threads that hash, at most.
const FINISHERS: usize = 8;

/// A batch that was read.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) batch: Batch,
    pub(super) bounce: Bounce,
    /// Where in the buffer the batch begins.
    pub(super) begin: usize,
}

/// What the threads of one load share.
pub(super) struct Crew<'a> {
    pub(super) request: &'a LoadRequest,
    pub(super) sources: &'a [Source<'a>],
    pub(super) draft: &'a Draft,
    pub(super) cancel: &'a CancellationToken,
    pub(super) progress: &'a Progress,
    readers: usize,
    finishers: usize,
    pub(super) front: Front,
    pub(super) queue: Handoff<Batch>,
    pub(super) free: Handoff<Bounce>,
    pub(super) filled: Handoff<Filled>,
    stop: AtomicBool,
}

type Work<'s> = ScopedJoinHandle<'s, Result<Vec<Piece>, ResidencyError>>;

impl<'a> Crew<'a> {
    /// For these batches, with so many reads at a time.
    ///
    /// # Errors
    /// When the system has no memory for the buffers.
    pub(super) fn new(
        request: &'a LoadRequest,
        sources: &'a [Source<'a>],
        draft: &'a Draft,
        batches: Vec<Batch>,
        readers: usize,
        cancel: &'a CancellationToken,
        progress: &'a Progress,
    ) -> Result<Self, ResidencyError> {
        let readers = readers.min(batches.len()).max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let finishers = cores.min(FINISHERS).min(batches.len()).max(1);
        let buffers = (readers + READY).min(batches.len()).max(1);
        let bounces = (0..buffers).map(|_| Bounce::new(request.io.chunk())).collect::<Result<Vec<_>, _>>();
        let memory = |error| ResidencyError::Memory { bytes: draft.len(), source: Arc::new(error) };
        let free = Handoff::new(bounces.map_err(memory)?, finishers);
        let front = Front::new(&batches);
        let (queue, filled) = (Handoff::new(batches, 0), Handoff::new([], readers));
        let stop = AtomicBool::new(false);
        Ok(Self { request, sources, draft, cancel, progress, readers, finishers, front, queue, free, filled, stop })
    }

    /// Reads and finishes all batches.
    pub(super) fn run(&self) -> Result<Vec<Piece>, ResidencyError> {
        thread::scope(|scope| {
            let (mut helpers, mut failed): (Vec<Work<'_>>, _) = (Vec::new(), None);
            for number in 0..1 + self.readers + self.finishers {
                let (name, work): (_, fn(&Self) -> _) = match number {
                    0 => ("load-memory", Self::back),
                    _ if number <= self.readers => ("load-read", Self::read_all),
                    _ => ("load-hash", Self::finish_all),
                };
                let builder = thread::Builder::new().name(name.into());
                match builder.spawn_scoped(scope, move || work(self)) {
                    Ok(helper) => helpers.push(helper),
                    Err(error) => {
                        self.stop();
                        failed = Some(ResidencyError::Thread { source: Arc::new(error) });
                        break;
                    }
                }
            }
            let aborted = |_| Err(ResidencyError::Aborted { key: self.request.key.clone() });
            // all are waited for before the first error is answered: they hold the draft
            let results: Vec<_> = helpers.into_iter().map(|helper| helper.join().unwrap_or_else(aborted)).collect();
            let pieces: Vec<Vec<Piece>> = failed.map(Err).into_iter().chain(results).collect::<Result<_, _>>()?;
            Ok(pieces.into_iter().flatten().collect())
        })
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Nothing has failed and nobody has cancelled.
    pub(super) fn wanted(&self) -> bool {
        !self.stop.load(Ordering::Acquire) && !self.cancel.is_cancelled()
    }

    /// The one that makes the memory, a little ahead of what is read. What is gathered later is not ahead of anything yet.
    fn back(&self) -> Result<Vec<Piece>, ResidencyError> {
        let until = self.front.end();
        let end = if self.request.gathered.is_empty() { self.draft.len() } else { until };
        self.draft.back(until, end, || self.wanted()).map_err(|error| {
            self.stop();
            ResidencyError::Memory { bytes: self.draft.len(), source: Arc::new(error) }
        })?;
        Ok(Vec::new())
    }

    /// One that reads. After another's error it returns quietly.
    fn read_all(&self) -> Result<Vec<Piece>, ResidencyError> {
        let _leaving = Leaving(self, &self.filled);
        while self.wanted() {
            let Some(batch) = self.queue.take(|| false) else { return Ok(Vec::new()) };
            let Some(mut bounce) = self.free.take(|| self.wanted()) else { break };
            let begin = match self.read(&batch, &mut bounce) {
                Ok(Some(begin)) => begin,
                Ok(None) => break,
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            };
            self.progress.read();
            self.filled.put(Filled { batch, bounce, begin });
        }
        self.why_not()
    }

    fn read(&self, batch: &Batch, bounce: &mut Bounce) -> Result<Option<usize>, ResidencyError> {
        if batch.begin == batch.end {
            return Ok(Some(0));
        }
        self.sources[batch.file].read(bounce, batch.begin, batch.end, || self.wanted())
    }

    /// Cancelled, or another thread's error, which that one answers.
    pub(super) fn why_not(&self) -> Result<Vec<Piece>, ResidencyError> {
        if self.cancel.is_cancelled() {
            self.stop();
            return Err(ResidencyError::Cancelled { key: self.request.key.clone() });
        }
        Ok(Vec::new())
    }
}

/// Held by a thread that puts things into a queue: however it ends, those who wait for more are told, and if it panicked the
/// others stop.
pub(super) struct Leaving<'a, T>(pub(super) &'a Crew<'a>, pub(super) &'a Handoff<T>);

impl<T> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
        self.1.leave();
    }
}
