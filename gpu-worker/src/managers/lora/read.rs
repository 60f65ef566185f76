//! A LoRA from the RAM tier as the algebra takes it, and the tensors of what it is applied to, from headers.

use std::collections::BTreeMap;

use engine::{
    ElementType,
    lora::{AdapterSettings, BaseTensor, Lora, LoraError, LoraTensor},
};
use model_formats::Inspection;
use residency::Lease;
use shared::db::models::ComponentRow;

use crate::load_request::load_request;

/// The canonical tensors of a component, under the kind that it is used as.
pub fn base_tensors(row: &ComponentRow, used_as: &str, inspection: &Inspection) -> Vec<BaseTensor> {
    let Some(request) = load_request(row, inspection) else { return Vec::new() };
    let plain = request.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape, tensor.end - tensor.begin));
    let gathered =
        request.gathered.iter().map(|tensor| (&tensor.name, &tensor.shape, tensor.checked_bytes().unwrap_or(0)));
    let tensor = |(name, shape, bytes): (&String, &Vec<u64>, u64)| BaseTensor {
        component: used_as.to_owned(),
        name: name.clone(),
        shape: shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect(),
        bytes,
    };
    plain.chain(gathered).map(tensor).collect()
}

/// Reads a LoRA whose bytes are these.
///
/// # Errors
/// The first thing that is wrong with its tensors.
pub fn read(lease: &Lease, bytes: &[u8], settings: &BTreeMap<String, AdapterSettings>) -> Result<Lora, LoraError> {
    Lora::read(&tensors(lease, bytes, &shapes(lease))?, settings)
}

/// The dimensions of a component's tensors, in their order.
pub fn shapes(lease: &Lease) -> Vec<Vec<usize>> {
    let shape = |sides: &[u64]| sides.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
    lease.tensors().iter().map(|tensor| shape(&tensor.shape)).collect()
}

/// A component's tensors as the algebra takes them; `bytes` are those of the lease, `shapes` as [`shapes`] gives them.
///
/// # Errors
/// The first tensor that is none of a LoRA's.
pub fn tensors<'a>(
    lease: &'a Lease,
    bytes: &'a [u8],
    shapes: &'a [Vec<usize>],
) -> Result<Vec<LoraTensor<'a>>, LoraError> {
    let mut tensors = Vec::with_capacity(shapes.len());
    for (tensor, shape) in lease.tensors().iter().zip(shapes) {
        let wrong = |reason: String| LoraError::Tensor { tensor: tensor.name.clone(), reason };
        let element = ElementType::parse(&tensor.dtype).ok_or_else(|| wrong(format!("stored as {}", tensor.dtype)))?;
        let range = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.offset + tensor.len).ok());
        let bytes =
            range.and_then(|(begin, end)| bytes.get(begin..end)).ok_or_else(|| wrong("cut short".to_owned()))?;
        tensors.push(LoraTensor { name: &tensor.name, element, shape, bytes });
    }
    Ok(tensors)
}

/// Equal for LoRAs that change a base in the same way: the digest of the tensors, and of the settings where there are any,
/// because these are no tensors and scale the factors all the same.
pub fn identity(digest: &str, settings: &BTreeMap<String, AdapterSettings>) -> String {
    if settings.is_empty() {
        return digest.to_owned();
    }
    let mut hasher = blake3::Hasher::new();
    for (component, of) in settings {
        hasher.update(format!("{component:?} {:?} {} {}\n", of.alpha, of.rank_stabilised, of.transposed).as_bytes());
        if let Some(ranks) = &of.ranks {
            hasher.update(format!("{ranks:?}\n").as_bytes());
        }
        // in their order, which decides
        for (key, alpha) in &of.alphas {
            hasher.update(format!("{:?} {alpha:?}\n", key.as_str()).as_bytes());
        }
    }
    format!("{digest}+{}", hasher.finalize().to_hex())
}
