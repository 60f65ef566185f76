//! The pass itself: one reader, one thread for each hash, chunks shared between them.

use std::{
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Scope, ScopedJoinHandle},
};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use super::{AUTOV1, AUTOV1_DIGITS, FileHashes, Hashed};
use crate::{error::FormatError, probe::Probe};

/// Bytes of one read.
const CHUNK_BYTES: usize = 4 << 20;
/// Chunks that may wait for a hash: bounds the memory to a few of them.
const WAITING: usize = 2;

/// A part of the file.
pub(super) struct Chunk {
    offset: u64,
    bytes: Vec<u8>,
}

impl Chunk {
    /// Where it ends in the file.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }

    /// What lies between these offsets of the file.
    pub(super) fn within(&self, begin: u64, end: u64) -> &[u8] {
        let at = |offset: u64| {
            usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(self.bytes.len())
        };
        self.bytes.get(at(begin)..at(end).max(at(begin))).unwrap_or_default()
    }
}

/// A hash on its thread and the way to it.
type Lane<'s, T> = (SyncSender<Arc<Chunk>>, ScopedJoinHandle<'s, T>);

pub(super) fn run(
    probe: &Probe,
    payload_begin: Option<u64>,
    ranges: &[Range<u64>],
    on_chunk: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Hashed>, FormatError> {
    std::thread::scope(|scope| {
        let blake3 = lane(scope, |chunks| {
            let mut hasher = blake3::Hasher::new();
            for chunk in chunks {
                hasher.update(&chunk.bytes);
            }
            hasher.finalize().to_hex().to_string()
        });
        let whole = lane(scope, |chunks| sha256(&chunks, 0, u64::MAX));
        let payload = payload_begin.map(|begin| lane(scope, move |chunks| sha256(&chunks, begin, u64::MAX)));
        let short = lane(scope, |chunks| sha256(&chunks, AUTOV1.0, AUTOV1.0.saturating_add(AUTOV1.1)));
        let parts = (!ranges.is_empty()).then(|| lane(scope, |chunks| super::ranges::hash(&chunks, ranges)));
        let senders: Vec<_> = [Some(&blake3.0), Some(&whole.0), payload.as_ref().map(|lane| &lane.0), Some(&short.0)]
            .into_iter()
            .chain([parts.as_ref().map(|lane| &lane.0)])
            .flatten()
            .cloned()
            .collect();
        let read = read(probe, &senders, on_chunk);
        drop(senders);
        let (blake3, sha256, mut autov1) = (end(blake3), end(whole), end(short));
        let (payload_sha256, parts) = (payload.map(end), parts.map(end).unwrap_or_default());
        autov1.truncate(AUTOV1_DIGITS);
        let file = FileHashes { blake3, sha256, payload_sha256, autov1 };
        Ok(read?.then_some(Hashed { file, ranges: parts }))
    })
}

fn lane<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    work: impl FnOnce(Receiver<Arc<Chunk>>) -> T + Send + 's,
) -> Lane<'s, T> {
    let (sender, receiver) = sync_channel(WAITING);
    (sender, scope.spawn(move || work(receiver)))
}

/// The result of a lane; its thread ends when the last way to it is gone.
fn end<T>((sender, thread): Lane<'_, T>) -> T {
    drop(sender);
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn sha256(chunks: &Receiver<Arc<Chunk>>, begin: u64, end: u64) -> String {
    let mut hasher = Sha256::new();
    for chunk in chunks {
        hasher.update(chunk.within(begin, end));
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the file to its end, or to where `on_chunk` stops (false).
fn read(
    probe: &Probe,
    lanes: &[SyncSender<Arc<Chunk>>],
    on_chunk: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<bool, FormatError> {
    let mut offset = 0;
    while offset < probe.facts.size {
        let left = probe.facts.size.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)];
        probe.read_data(&mut bytes, offset)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // a hint, hence no error: a library that is read once must not push out what is in use
        let _ = fadvise(&probe.file, offset, std::num::NonZeroU64::new(size), Advice::DontNeed);
        let chunk = Arc::new(Chunk { offset, bytes });
        for sender in lanes {
            // a closed way means a panicked hash, which the join passes on
            let _ = sender.send(chunk.clone());
        }
        offset = offset.saturating_add(size);
        if on_chunk(size).is_break() {
            return Ok(false);
        }
    }
    Ok(true)
}
