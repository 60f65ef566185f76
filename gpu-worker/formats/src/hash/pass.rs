//! The pass itself: one reader, one thread for each hash, chunks shared between them.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Scope, ScopedJoinHandle},
};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use super::{AUTOV1, AUTOV1_DIGITS, FileHashes};
use crate::{error::FormatError, probe::Probe};

/// Bytes of one read.
const CHUNK_BYTES: usize = 4 << 20;
/// Chunks that may wait for a hash: bounds the memory to a few of them.
const WAITING: usize = 2;

/// A part of the file.
struct Chunk {
    offset: u64,
    bytes: Vec<u8>,
}

impl Chunk {
    /// What lies between these offsets of the file.
    fn within(&self, begin: u64, end: u64) -> &[u8] {
        let at = |offset: u64| {
            usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(self.bytes.len())
        };
        self.bytes.get(at(begin)..at(end).max(at(begin))).unwrap_or_default()
    }
}

/// A hash on its thread and the way to it.
type Lane<'s> = (SyncSender<Arc<Chunk>>, ScopedJoinHandle<'s, String>);

pub(super) fn run(
    probe: &Probe,
    payload_begin: Option<u64>,
    on_chunk: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<FileHashes>, FormatError> {
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
        let lanes = [Some(blake3), Some(whole), payload, Some(short)];
        let read = read(probe, &lanes, on_chunk);
        // every thread ends when its sender is gone
        let mut ends = lanes.into_iter().map(|lane| {
            lane.map(|(sender, thread)| {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        });
        let mut next = || ends.next().flatten();
        let (blake3, whole, payload, short) = (next(), next(), next(), next());
        let (true, Some(blake3), Some(sha256), Some(mut autov1)) = (read?, blake3, whole, short) else {
            return Ok(None);
        };
        autov1.truncate(AUTOV1_DIGITS);
        Ok(Some(FileHashes { blake3, sha256, payload_sha256: payload, autov1 }))
    })
}

fn lane<'s, 'e>(scope: &'s Scope<'s, 'e>, work: impl FnOnce(Receiver<Arc<Chunk>>) -> String + Send + 's) -> Lane<'s> {
    let (sender, receiver) = sync_channel(WAITING);
    (sender, scope.spawn(move || work(receiver)))
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
    lanes: &[Option<Lane<'_>>],
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
        for (sender, _) in lanes.iter().flatten() {
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
