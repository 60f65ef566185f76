//! The product's loader: an empty RAM tier acquires the file as one component, with its digest, as a load job does.

use std::path::Path;

use residency::{Digest, Direct, IoOptions, RamTier, TierConfig};
use tokio_util::sync::CancellationToken;

use crate::model;

/// Loads the file into a new tier, all of it, and frees it again; answers its digest.
///
/// # Errors
/// What the loader says.
pub(crate) async fn load(path: &Path, direct: Direct) -> anyhow::Result<Digest> {
    let tier = RamTier::new(TierConfig::new(u64::MAX));
    let request = model::request(path, IoOptions { direct, ..IoOptions::default() })?;
    let wanted = request.tensor_bytes();
    let lease = tier.acquire(request, &CancellationToken::new()).await?;
    anyhow::ensure!(lease.tensor_bytes() == wanted, "loaded {} of {wanted} bytes", lease.tensor_bytes());
    Ok(lease.digest())
}
