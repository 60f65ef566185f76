//! The product's loader: an empty RAM tier acquires the file as one component, with its digest, as a load job does.

use std::{path::Path, time::Instant};

use residency::{Digest, Direct, IoOptions, Lease, RamTier, TierConfig};
use tokio_util::sync::CancellationToken;

use crate::{memory, model};

/// One load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    /// Of the component.
    pub digest: Digest,
    /// Until its bytes were there and verified.
    pub seconds: f64,
    /// Memory at the peak beyond the tensors: buffers, rounding.
    pub beside_bytes: u64,
    /// Bytes of it in huge pages.
    pub huge_bytes: u64,
}

/// Loads the file into a tier, all of it; answers its digest, the seconds until it is there and the peak of memory beyond
/// the component's own bytes. Freeing it is not counted: no peer's is.
///
/// # Errors
/// What the loader says.
pub(crate) async fn load(tier: &RamTier, path: &Path, direct: Direct) -> anyhow::Result<Loaded> {
    let request = model::request(path, IoOptions { direct, ..IoOptions::default() })?;
    let (key, wanted) = (request.key.clone(), request.tensor_bytes());
    // the peak of what is mapped starts anew here; memory files are not mapped, so they are added from the ledger's audit
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = status_bytes("VmRSS")?;
    let huge_before = memory::kernel_bytes("ShmemHugePages")?;
    let began = Instant::now();
    let lease = tier.acquire(request, &CancellationToken::new()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let beside_bytes = status_bytes("VmHWM")?.saturating_sub(before);
    anyhow::ensure!(lease.tensor_bytes() == wanted, "loaded {} of {wanted} bytes", lease.tensor_bytes());
    let arena_bytes = tier.accounted_vs_system()?.system_bytes;
    let loaded = Loaded {
        digest: lease.digest(),
        seconds,
        beside_bytes: (beside_bytes + arena_bytes).saturating_sub(wanted),
        huge_bytes: memory::kernel_bytes("ShmemHugePages")?.saturating_sub(huge_before),
    };
    drop(lease);
    tier.evict(&key).await?;
    Ok(loaded)
}

/// The file in the tier, for as long as the lease lives.
///
/// # Errors
/// What the loader says.
pub(crate) async fn resident(tier: &RamTier, path: &Path) -> anyhow::Result<Lease> {
    Ok(tier.acquire(model::request(path, IoOptions::default())?, &CancellationToken::new()).await?)
}

/// A figure of this process in bytes.
fn status_bytes(name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default().parse()?;
    Ok(kib * 1024)
}

/// An empty tier without a bound. One serves all passes, so that what it learns of the disk is used.
pub(crate) fn tier() -> RamTier {
    RamTier::new(TierConfig::new(u64::MAX))
}
