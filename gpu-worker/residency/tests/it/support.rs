//! Files with known bytes, requests for them, and a gate that holds a load between two chunks.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

use residency::{
    FileIdentity, IoOptions, Lease, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig, policy::Policy,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn tier(budget_bytes: u64) -> RamTier {
    tier_with(budget_bytes, Policy::Lru)
}

pub(crate) fn tier_with(budget_bytes: u64, policy: Policy) -> RamTier {
    RamTier::new(TierConfig { policy, ..TierConfig::new(budget_bytes) })
}

/// Bytes that differ from file to file and from offset to offset.
pub(crate) fn bytes(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn write(dir: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// Small chunks and one thread: a load of a megabyte has sixteen steps in a known order.
pub(crate) fn slow_io() -> IoOptions {
    IoOptions { threads: 1, chunk_bytes: 64 << 10, ..IoOptions::default() }
}

pub(crate) fn source(path: &Path) -> SourceFile {
    SourceFile { path: path.to_owned(), expected: FileIdentity::of(path).unwrap() }
}

pub(crate) fn tensor(name: &str, file_index: usize, begin: u64, end: u64) -> TensorRange {
    TensorRange { name: name.into(), dtype: "F16".into(), shape: vec![(end - begin) / 2], file_index, begin, end }
}

/// The whole file as one tensor.
pub(crate) fn request(key: &str, path: &Path) -> LoadRequest {
    let source = source(path);
    let end = source.expected.size;
    LoadRequest {
        key: key.into(),
        sources: vec![source],
        tensors: vec![tensor("weight", 0, 0, end)],
        gathered: Vec::new(),
        expected_digest: None,
        wanted_by: None,
        io: IoOptions::default(),
    }
}

pub(crate) async fn acquire(tier: &RamTier, request: LoadRequest) -> Result<Lease, residency::ResidencyError> {
    tier.acquire(request, &CancellationToken::new()).await
}

/// Nothing is resident, nothing reserved, and the system agrees.
pub(crate) fn assert_empty(tier: &RamTier) {
    let audit = tier.accounted_vs_system().unwrap();
    assert_eq!((audit.used_bytes, audit.reserved_bytes, audit.system_bytes), (0, 0, 0), "{audit:?}");
    assert_eq!((audit.arenas, audit.underflows_total), (0, 0));
}

/// Holds a load at its first chunk until opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Gate {
    /// The observer to put into [`IoOptions::on_chunk`].
    pub(crate) fn hold(&self, io: &mut IoOptions) {
        let gate = self.clone();
        io.on_chunk = Some(Arc::new(move |_, _| {
            let (state, changed) = &*gate.0;
            let mut state = state.lock().unwrap();
            state.0 = true;
            changed.notify_all();
            while !state.1 {
                state = changed.wait(state).unwrap();
            }
        }));
    }

    /// Waits on a blocking thread until a chunk has landed.
    pub(crate) async fn reached(&self) {
        let gate = self.clone();
        let wait = move || {
            let (state, changed) = &*gate.0;
            let mut state = state.lock().unwrap();
            while !state.0 {
                state = changed.wait(state).unwrap();
            }
        };
        tokio::task::spawn_blocking(wait).await.unwrap();
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

/// Waits until the tier's snapshot satisfies a condition.
pub(crate) async fn until(tier: &RamTier, done: impl Fn(&residency::TierSnapshot) -> bool) {
    let mut changes = tier.changes();
    while !done(&tier.snapshot()) {
        changes.changed().await.unwrap();
    }
}
