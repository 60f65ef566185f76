//! The product's two ways to a checkpoint: the listing that a scan makes, and the RAM tier with the digest in the same pass.

use std::path::Path;

use anyhow::Context;
use model_formats::{Correction, Dtype, Lister, Memo, TensorFacts, pickle};
use residency::{
    FileIdentity, GatheredTensor, IoOptions, LoadRequest, Part, PartOrder, RamTier, SourceFile, TensorRange,
};
use tokio_util::sync::CancellationToken;

/// What a scan says of the file, from its own pickle: nothing of this is remembered from another file.
///
/// # Errors
/// When it cannot be read or is no checkpoint.
pub(crate) fn list(path: &Path, tensors: usize) -> anyhow::Result<()> {
    let memo = Memo::default();
    let listing = Lister::new(&memo).list(path, Correction::default())?;
    let found =
        listing.metadata.get("facts").and_then(|facts| facts.get("tensors")).and_then(serde_json::Value::as_u64);
    anyhow::ensure!(found == Some(tensors as u64), "listed {found:?} of {tensors} tensors: {:?}", listing.reason);
    Ok(())
}

/// Reads the file into the tier, all of it, and takes it out again.
///
/// # Errors
/// What the reader or the loader says.
pub(crate) async fn load(tier: &RamTier, path: &Path, bytes: u64) -> anyhow::Result<()> {
    let request = request(path)?;
    let key = request.key.clone();
    let lease = tier.acquire(request, &CancellationToken::new()).await?;
    anyhow::ensure!(lease.tensor_bytes() == bytes, "loaded {} of {bytes} bytes", lease.tensor_bytes());
    drop(lease);
    tier.evict(&key).await?;
    Ok(())
}

/// The whole file as one component under its own names.
fn request(path: &Path) -> anyhow::Result<LoadRequest> {
    let found = pickle::read(path)?;
    let (mut tensors, mut gathered) = (Vec::new(), Vec::new());
    for tensor in found.tensors {
        match &tensor.strides {
            None => tensors.push(plain(&tensor)),
            Some(strides) => gathered.push(strided(&tensor, strides)?),
        }
    }
    Ok(LoadRequest {
        key: "bench".into(),
        sources: vec![SourceFile { path: path.to_owned(), expected: FileIdentity::of(path)? }],
        tensors,
        gathered,
        expected_digest: None,
        wanted_by: None,
        io: IoOptions::default(),
    })
}

fn plain(tensor: &TensorFacts) -> TensorRange {
    TensorRange {
        name: tensor.name.clone(),
        dtype: tensor.dtype.as_str().to_owned(),
        shape: tensor.shape.clone(),
        file_index: 0,
        begin: tensor.begin,
        end: tensor.end,
    }
}

fn strided(tensor: &TensorFacts, strides: &[u64]) -> anyhow::Result<GatheredTensor> {
    let whole = |dtype: Dtype| dtype.bits().is_multiple_of(8).then(|| dtype.bits() / 8);
    let order = PartOrder::Strided { shape: tensor.shape.clone(), strides: strides.to_vec() };
    Ok(GatheredTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.as_str().to_owned(),
        shape: tensor.shape.clone(),
        element_bytes: whole(tensor.dtype).context("elements of less than a byte")?,
        parts: vec![Part { file_index: 0, begin: tensor.begin, end: tensor.end, order }],
    })
}
