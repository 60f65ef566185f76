//! The threads of one load: each takes the next batch, reads it, copies and hashes its slices.

use std::{
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
    file::{Bounce, Source},
};
use crate::{digest::SliceHasher, error::ResidencyError, progress::Progress, request::LoadRequest};

/// Bytes copied and then hashed while they are still in the core's cache.
const STEP: usize = 128 << 10;

/// The hash of one slice.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) tensor: usize,
    pub(super) slice: usize,
    pub(super) value: ChainingValue,
}

/// What the threads of one load share.
pub(super) struct Shared<'a, 'm> {
    request: &'a LoadRequest,
    sources: &'a [Source],
    queue: Mutex<IntoIter<Batch<'m>>>,
    threads: usize,
    cancel: &'a CancellationToken,
    progress: &'a Progress,
    stop: AtomicBool,
}

impl<'a, 'm> Shared<'a, 'm> {
    pub(super) fn new(
        request: &'a LoadRequest,
        sources: &'a [Source],
        batches: Vec<Batch<'m>>,
        cancel: &'a CancellationToken,
        progress: &'a Progress,
    ) -> Self {
        let threads = request.io.threads().min(batches.len()).max(1);
        let queue = Mutex::new(batches.into_iter());
        Self {
            request,
            sources,
            queue,
            threads,
            cancel,
            progress,
            stop: AtomicBool::new(false),
        }
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
                        failed = Some(ResidencyError::Thread {
                            source: Arc::new(error),
                        });
                        break;
                    }
                }
            }
            let mut results = vec![failed.map_or_else(|| self.work(), Err)];
            results.extend(helpers.into_iter().map(|helper| {
                helper.join().unwrap_or_else(|_| {
                    Err(ResidencyError::Aborted {
                        key: self.request.key.clone(),
                    })
                })
            }));
            let pieces: Vec<Vec<Piece>> = results.into_iter().collect::<Result<_, _>>()?;
            Ok(pieces.into_iter().flatten().collect())
        })
    }

    /// One worker. After another's error it returns quietly with what it has.
    fn work(&self) -> Result<Vec<Piece>, ResidencyError> {
        let mut bounce = Bounce::new(self.request.io.chunk());
        let mut pieces = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            if self.cancel.is_cancelled() {
                self.stop.store(true, Ordering::Release);
                return Err(ResidencyError::Cancelled {
                    key: self.request.key.clone(),
                });
            }
            let Some(batch) = self.next() else { break };
            if let Err(error) = self.take(batch, &mut bounce, &mut pieces) {
                self.stop.store(true, Ordering::Release);
                return Err(error);
            }
        }
        Ok(pieces)
    }

    fn next(&self) -> Option<Batch<'m>> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    }

    fn take(
        &self,
        batch: Batch<'m>,
        bounce: &mut Bounce,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), ResidencyError> {
        let bytes = if batch.begin == batch.end {
            &[][..]
        } else {
            self.sources[batch.file].read(bounce, batch.begin, batch.end)?
        };
        let mut landed = 0;
        for slice in batch.slices {
            let from = (slice.begin - batch.begin) as usize;
            landed += slice.out.len() as u64;
            pieces.push(fill(slice, from, bytes));
        }
        let done = self.progress.add(landed);
        if let Some(observer) = &self.request.io.on_chunk {
            observer(done);
        }
        Ok(())
    }
}

fn fill(slice: Slice<'_>, from: usize, bytes: &[u8]) -> Piece {
    let input = &bytes[from..from + slice.out.len()];
    let mut hasher = SliceHasher::new(slice.offset, slice.whole);
    for (to, part) in slice.out.chunks_mut(STEP).zip(input.chunks(STEP)) {
        to.copy_from_slice(part);
        hasher.update(part);
    }
    Piece {
        tensor: slice.tensor,
        slice: slice.index,
        value: hasher.finish(),
    }
}
