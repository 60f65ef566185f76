//! Where the bytes of a canonical tensor are: pieces of tensors of the file, and the order of their elements.

use crate::{dtype::Dtype, inspection::TensorFacts};

/// A tensor under its canonical name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalTensor {
    /// Name in diffusers or transformers.
    pub name: String,
    /// Element type, as in the file.
    pub dtype: Dtype,
    /// Canonical shape.
    pub shape: Vec<u64>,
    /// The pieces whose elements, read one piece after the other, are the tensor in row-major order.
    pub pieces: Vec<Piece>,
}

/// A run of elements of one tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index of the tensor in the input.
    pub tensor: usize,
    /// Index of its file, as in its facts.
    pub file: usize,
    /// First byte, as an absolute offset in the file.
    pub begin: u64,
    /// One past the last byte, as an absolute offset in the file.
    pub end: u64,
    /// How the canonical order walks over these bytes.
    pub order: Order,
}

/// The order of a piece's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// As they are stored.
    RowMajor,
    /// The bytes hold a row-major matrix of this size; the canonical one is its transpose.
    Transposed {
        /// Rows as stored.
        rows: u64,
        /// Columns as stored.
        cols: u64,
    },
    /// Element `[i, j, …]` of the canonical piece is element `i·strides[0] + j·strides[1] + …` from its begin.
    Strided {
        /// Canonical shape of the piece.
        shape: Vec<u64>,
        /// Strides in elements.
        strides: Vec<u64>,
    },
}

/// A part of a tensor of the file.
#[derive(Debug, Clone)]
pub(super) struct View {
    tensor: usize,
    file: usize,
    dtype: Dtype,
    begin: u64,
    end: u64,
    pub(super) shape: Vec<u64>,
    strides: Option<Vec<u64>>,
    is_transposed: bool,
}

impl View {
    /// The whole tensor.
    pub(super) fn of(index: usize, tensor: &TensorFacts) -> Self {
        Self {
            tensor: index,
            file: tensor.file,
            dtype: tensor.dtype,
            begin: tensor.begin,
            end: tensor.end,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            is_transposed: false,
        }
    }

    /// The rows from `first` on; none where there are fewer, or where they do not begin and end at whole bytes.
    pub(super) fn rows(&self, first: u64, count: u64) -> Option<Self> {
        let (have, rest) = self.shape.split_first()?;
        if self.is_transposed || first.checked_add(count)? > *have {
            return None;
        }
        let shape: Vec<u64> = std::iter::once(count).chain(rest.iter().copied()).collect();
        let row = match &self.strides {
            Some(strides) => *strides.first()?,
            None => product(rest)?,
        };
        let span = match &self.strides {
            Some(strides) => reach(&shape, strides)?,
            None => product(&shape)?,
        };
        let begin = self.begin.checked_add(bytes(first.checked_mul(row)?, self.dtype)?)?;
        let end = begin.checked_add(bytes(span, self.dtype)?)?;
        (end <= self.end).then(|| Self { begin, end, shape, ..self.clone() })
    }

    /// The matrix transposed; none for anything but a matrix.
    pub(super) fn transposed(&self) -> Option<Self> {
        let [rows, cols] = *self.shape.as_slice() else { return None };
        let strides = self.strides.as_ref().map(|strides| strides.iter().rev().copied().collect());
        Some(Self { shape: vec![cols, rows], is_transposed: strides.is_none(), strides, ..self.clone() })
    }

    /// The first two axes, where all others have length one.
    pub(super) fn matrix(&self) -> Option<Self> {
        let (shape, ones) = self.shape.split_at_checked(2)?;
        let is_matrix = ones.iter().all(|side| *side == 1);
        let strides = self.strides.as_ref().map(|strides| strides.iter().take(2).copied().collect());
        is_matrix.then(|| Self { shape: shape.to_vec(), strides, ..self.clone() })
    }

    /// The matrix as a 1×1 convolution.
    pub(super) fn pointwise(&self) -> Option<Self> {
        let matrix = self.matrix()?;
        let strides = matrix.strides.clone().map(|strides| strides.into_iter().chain([1, 1]).collect());
        let shape = matrix.shape.iter().copied().chain([1, 1]).collect();
        Some(Self { shape, strides, ..matrix })
    }

    fn piece(self) -> Piece {
        let order = match (self.strides, self.shape.as_slice()) {
            (Some(strides), _) => Order::Strided { shape: self.shape, strides },
            (None, [cols, rows]) if self.is_transposed => Order::Transposed { rows: *rows, cols: *cols },
            (None, _) => Order::RowMajor,
        };
        Piece { tensor: self.tensor, file: self.file, begin: self.begin, end: self.end, order }
    }

    /// The tensor that this view alone is.
    pub(super) fn named(self, name: String) -> CanonicalTensor {
        CanonicalTensor { name, dtype: self.dtype, shape: self.shape.clone(), pieces: vec![self.piece()] }
    }

    /// The tensor with the rows of both views, `self` first.
    pub(super) fn stacked(self, next: Self, name: String) -> Option<CanonicalTensor> {
        let next_rows = *next.shape.first()?;
        let mut tensor = self.named(name);
        let rows = tensor.shape.first_mut()?;
        *rows = rows.checked_add(next_rows)?;
        tensor.pieces.push(next.piece());
        Some(tensor)
    }
}

fn product(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side))
}

/// Elements from the first to the last one of a strided view; 0 for an empty one.
fn reach(shape: &[u64], strides: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0_u64, |sum, (side, stride)| sum.checked_add(side.checked_sub(1)?.checked_mul(*stride)?))?;
    last.checked_add(1)
}

fn bytes(elements: u64, dtype: Dtype) -> Option<u64> {
    let bits = elements.checked_mul(dtype.bits())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
