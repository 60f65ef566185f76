//! The tiling rule: the tensors cover the data exactly, in order, without hole or overlap.

use std::{cmp::Ordering, path::Path};

use super::parse::RawTensor;
use crate::{
    error::{FormatError, TensorProblem},
    inspection::TensorFacts,
};

/// Sorts the entries by offset, checks that they tile `data_bytes` exactly, and makes the offsets
/// absolute.
pub(super) fn tile(
    path: &Path,
    mut raw: Vec<RawTensor<'_>>,
    data_begin: u64,
    data_bytes: u64,
) -> Result<Vec<TensorFacts>, FormatError> {
    raw.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let mut tensors = Vec::with_capacity(raw.len());
    let mut expected = 0;
    for tensor in raw {
        if let Err(problem) = check(&tensor, expected, data_bytes) {
            return Err(FormatError::Tensor { path: path.to_owned(), tensor: tensor.name.into_owned(), problem });
        }
        expected = tensor.end;
        // cannot overflow: end <= data_bytes, and data_begin + data_bytes is the file's size
        let (begin, end) = (data_begin.saturating_add(tensor.begin), data_begin.saturating_add(tensor.end));
        tensors.push(TensorFacts {
            name: tensor.name.into_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape,
            file: 0,
            begin,
            end,
            strides: None,
        });
    }
    if expected != data_bytes {
        return Err(FormatError::TrailingBytes { path: path.to_owned(), expected, found: data_bytes });
    }
    Ok(tensors)
}

fn check(tensor: &RawTensor<'_>, expected: u64, available: u64) -> Result<(), TensorProblem> {
    let (begin, end) = (tensor.begin, tensor.end);
    match begin.cmp(&expected) {
        Ordering::Less => return Err(TensorProblem::Overlap { expected, found: begin }),
        Ordering::Greater => return Err(TensorProblem::Hole { expected, found: begin }),
        Ordering::Equal => {}
    }
    let found = end.checked_sub(begin).ok_or(TensorProblem::Reversed { begin, end })?;
    if end > available {
        return Err(TensorProblem::BeyondFile { end, available });
    }
    let bytes = bytes_by_shape(tensor)?;
    if bytes == found { Ok(()) } else { Err(TensorProblem::SizeMismatch { expected: bytes, found }) }
}

/// Bytes that shape and dtype ask for. Multiplies in order, as the reference does, so that a leading
/// zero makes any later dimension harmless.
fn bytes_by_shape(tensor: &RawTensor<'_>) -> Result<u64, TensorProblem> {
    let elements = tensor.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let bits =
        elements.and_then(|elements| elements.checked_mul(tensor.dtype.bits())).ok_or(TensorProblem::Overflow)?;
    if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(TensorProblem::PartialByte { bits }) }
}
