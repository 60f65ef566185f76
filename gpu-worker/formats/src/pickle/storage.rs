//! Storages and the tensors over them: bounds, strides and the byte range of each.

use crate::dtype::Dtype;

/// Bytes that a tensor may have beyond its storage's (repeated elements cost nothing in the file).
const EXPANDED_BYTES: u64 = 16 << 20;
/// Most dimensions of a tensor, as PyTorch allows.
pub(super) const MAX_RANK: usize = 64;

/// Bytes of the file that tensors lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) dtype: Dtype,
    /// Elements.
    pub(super) count: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// A tensor over a storage; offset and strides count elements of `dtype`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) storage: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// None when row-major without gaps.
    pub(super) strides: Option<Vec<u64>>,
    /// First byte in the storage, and one past the last.
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// Places a tensor in its storage; the error says what does not fit.
pub(super) fn place(
    index: usize,
    storage: &Storage,
    dtype: Dtype,
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
) -> Result<Tensor, &'static str> {
    if shape.len() != strides.len() || shape.len() > MAX_RANK {
        return Err("a tensor whose shape and strides do not go together");
    }
    let overflow = "a tensor whose shape or strides overflow";
    let width = dtype.bits() / 8;
    let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim)).ok_or(overflow)?;
    let bytes = elements.checked_mul(width).ok_or(overflow)?;
    let begin = offset.checked_mul(width).ok_or(overflow)?;
    if begin > storage.bytes {
        return Err("a tensor that begins beyond its storage");
    }
    if elements == 0 {
        return Ok(Tensor { storage: index, dtype, shape, strides: None, begin, end: begin });
    }
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(0u64, |sum, (dim, stride)| sum.checked_add(dim.saturating_sub(1).checked_mul(*stride)?));
    let span = last.and_then(|last| last.checked_add(1)?.checked_mul(width)).ok_or(overflow)?;
    let end = begin.checked_add(span).ok_or(overflow)?;
    if end > storage.bytes {
        return Err("a tensor that reaches beyond its storage");
    }
    if bytes > storage.bytes.max(EXPANDED_BYTES) {
        return Err("a tensor that repeats its elements far beyond its storage");
    }
    let strides = (!is_row_major(&shape, &strides)).then_some(strides);
    Ok(Tensor { storage: index, dtype, shape, strides, begin, end })
}

/// Whether the elements lie one after the other; the stride of a dimension of one is of no meaning.
fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    shape.iter().zip(strides).rev().all(|(dim, stride)| {
        let fits = *dim == 1 || *stride == expected;
        expected = expected.saturating_mul(*dim);
        fits
    })
}
