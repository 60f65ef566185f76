//! How far a load is: shared counters that loader threads write and anyone reads without a lock.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use serde::Serialize;
use tokio::sync::watch;

use crate::arrival::{Arrival, Unverified};

/// What a load is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Planned, its thread is starting.
    Waiting,
    /// Reserving budget, evicting if needed.
    MakingRoom,
    /// Bytes move and are hashed.
    Reading,
    /// Digest and file identity are compared, the memory is sealed.
    Verifying,
    /// Over, in whichever way.
    Done,
}

impl Phase {
    /// The word that people and the wire see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::MakingRoom => "making_room",
            Self::Reading => "reading",
            Self::Verifying => "verifying",
            Self::Done => "done",
        }
    }
}

const PHASES: [Phase; 5] = [Phase::Waiting, Phase::MakingRoom, Phase::Reading, Phase::Verifying, Phase::Done];

/// Counters of one load.
#[derive(Debug)]
pub struct Progress {
    phase: AtomicU8,
    bytes_done: AtomicU64,
    bytes_total: u64,
    held: AtomicUsize,
    reads: AtomicU64,
    /// When bytes began to move.
    reading_since: OnceLock<Instant>,
    /// While bytes arrive.
    arrival: watch::Sender<Option<Arrival>>,
}

/// A thread of the load waits for something else than its disk.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProgressSnapshot {
    /// What it is doing.
    pub phase: Phase,
    /// Tensor bytes in memory and hashed.
    pub bytes_done: u64,
    /// Tensor bytes in all.
    pub bytes_total: u64,
}

impl Progress {
    /// A load of `bytes_total` tensor bytes that has not begun.
    pub fn new(bytes_total: u64) -> Self {
        Self {
            phase: AtomicU8::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_total,
            held: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            reading_since: OnceLock::new(),
            arrival: watch::Sender::new(None),
        }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        if phase == Phase::Reading {
            self.reading_since.get_or_init(Instant::now);
        }
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Adds landed bytes; returns the new sum.
    pub fn add(&self, bytes: u64) -> u64 {
        self.bytes_done.fetch_add(bytes, Ordering::AcqRel) + bytes
    }

    /// Bytes landed in a second, on the average since they began to; none before.
    pub fn bytes_per_second(&self) -> Option<f64> {
        let seconds = self.reading_since.get()?.elapsed().as_secs_f64();
        let done = self.bytes_done.load(Ordering::Acquire);
        (done > 0 && seconds > 0.0).then(|| done as f64 / seconds)
    }

    /// A read came back, whether or not its bytes have a place yet.
    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads that came back.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Acquire)
    }

    /// Bytes arrive in this memory from now on.
    pub(crate) fn begin_arrival(&self, memory: Unverified) {
        self.arrival.send_replace(Some(Arrival { memory: Arc::new(memory), complete_bytes: 0 }));
    }

    /// So many bytes of the memory, from its beginning, are written to no more.
    pub(crate) fn complete(&self, bytes: u64) {
        self.arrival.send_if_modified(|arrival| {
            let arrival = arrival.as_mut().filter(|arrival| arrival.complete_bytes < bytes);
            arrival.is_some_and(|arrival| {
                arrival.complete_bytes = bytes;
                true
            })
        });
    }

    /// The load is over, in whichever way: the memory is not held for followers any more.
    pub(crate) fn end_arrival(&self) {
        self.arrival.send_replace(None);
    }

    /// How far the bytes are while they arrive.
    pub(crate) fn arrival(&self) -> watch::Receiver<Option<Arrival>> {
        self.arrival.subscribe()
    }

    /// Says, while the guard lives, that a thread waits for something else than its disk.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.held.fetch_add(1, Ordering::AcqRel);
        Held(&self.held)
    }

    /// Whether one does.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Where it stands.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let phase = usize::from(self.phase.load(Ordering::Acquire));
        ProgressSnapshot {
            phase: PHASES.get(phase).copied().unwrap_or(Phase::Done),
            bytes_done: self.bytes_done.load(Ordering::Acquire),
            bytes_total: self.bytes_total,
        }
    }
}
