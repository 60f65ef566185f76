//! The changed tensor: base bytes in 32-bit floats, plus the changes in their order, rounded once.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use shared::error::{Classify, ErrorCode};

use super::{
    change::{Added, Stored, of_bias, of_weight},
    file::{LoraError, Module},
    parallel::{Sink, Task, Trouble, carry_out},
};
use crate::{Cancel, tensor::ElementType};

/// Why a tensor cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Weights of this type are not changed.
    #[error("weights stored as {found} cannot be changed: F32, F16 and BF16 can")]
    Type {
        /// The type.
        found: ElementType,
    },
    /// Dimensions and bytes differ, or a change has others.
    #[error("`{stem}` changes {found:?}, the weight has shape {expected:?}")]
    Shape {
        /// The module.
        stem: String,
        /// Rows and columns of the change.
        found: [usize; 2],
        /// The weight's dimensions.
        expected: Vec<usize>,
    },
    /// Values do not fit the weight's type any more.
    #[error(
        "{values} values of the changed tensor do not fit {element}; use smaller weights or a base in a wider type"
    )]
    Overflow {
        /// How many.
        values: usize,
        /// The type.
        element: ElementType,
    },
    /// The module cannot be read.
    #[error(transparent)]
    Module(#[from] LoraError),
    /// Bytes that the change is made from cannot be read.
    #[error("its bytes cannot be read: {answer}")]
    Memory {
        /// The system's answer.
        answer: String,
    },
    /// Somebody asked for it to stop.
    #[error("the merge was cancelled")]
    Cancelled,
}

impl Classify for MergeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Type { .. } => ErrorCode::Unsupported,
            Self::Shape { .. } => ErrorCode::Corrupt,
            Self::Overflow { .. } => ErrorCode::InvalidArgument,
            Self::Module(error) => error.code(),
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Memory { .. } => ErrorCode::Internal,
        }
    }
}

/// The bytes of a weight of this type and shape with the changes of `modules` added, each times its strength. The order of
/// `modules` is that of the canonical stack.
///
/// # Errors
/// [`MergeError`]; nothing was changed.
pub fn merge(
    (element, shape, bytes): (ElementType, &[usize], &[u8]),
    modules: &[(&Module, f64)],
    threads: NonZeroUsize,
) -> Result<Vec<u8>, MergeError> {
    let changed = modules.iter().filter(|(module, strength)| *strength != 0.0 && module.change.is_some());
    let changed: Vec<_> = changed.copied().collect();
    if changed.is_empty() {
        return Ok(bytes.to_vec());
    }
    merge_tensor("", (element, shape, bytes), &changed, threads)
}

/// As [`merge`], of the tensor of this name: to a bias what stands in the files for it is added, to a weight the rest.
///
/// # Errors
/// [`MergeError`]; nothing was changed.
pub fn merge_tensor(
    name: &str,
    (element, shape, bytes): (ElementType, &[usize], &[u8]),
    modules: &[(&Module, f64)],
    threads: NonZeroUsize,
) -> Result<Vec<u8>, MergeError> {
    let of = if name.ends_with(".bias") { of_bias } else { of_weight };
    let prepare = move |stored: Stored<'_>| {
        let active = modules.iter().filter(|(_, strength)| *strength != 0.0);
        let summands = active.map(|(module, strength)| of(stored, module, *strength));
        summands.filter_map(Result::transpose).map(|added| added.map(Added::packed)).collect()
    };
    let to = 0..bytes.len() as u64;
    let out = Out(Mutex::new(vec![0; bytes.len()]));
    let task =
        Task { sink: &out, name, element, shape, from: Some(bytes), to, place: None, prepare: Some(Box::new(prepare)) };
    match carry_out(vec![vec![task]], threads, &|_| {}, &Cancel::new()) {
        Ok(()) => Ok(out.0.into_inner().unwrap_or_else(PoisonError::into_inner)),
        Err(Trouble::Tensor(failed)) => Err(failed.error),
        Err(Trouble::Memory(error)) => Err(MergeError::Memory { answer: error.to_string() }),
    }
}

/// A tensor of its own.
struct Out(Mutex<Vec<u8>>);

impl Sink for Out {
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = usize::try_from(at).map_err(io::Error::other)?;
        let place = out.get_mut(begin..begin + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        let out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = usize::try_from(at).map_err(io::Error::other)?;
        to.copy_from_slice(out.get(begin..begin + to.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
