//! A tensor of a file that is to be written: name, shape and where its values come from.

use super::{options::Dtype, values::Fill};

/// Elements that follow each other in a tensor and belong to one weight.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Names the weight: equal keys give equal values.
    pub(super) key: String,
    pub(super) elements: u64,
    /// The weight's rows, when it is stored transposed.
    pub(super) transposed_from_rows: Option<u64>,
    pub(super) fill: Fill,
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) parts: Vec<Part>,
}

impl Tensor {
    /// Elements.
    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bytes()
    }

    /// Adds the rows of one more weight.
    pub(super) fn append_rows(&mut self, shape: &[u64], part: Part) {
        if let (Some(rows), Some(more)) = (self.shape.first_mut(), shape.first()) {
            *rows += more;
        }
        self.parts.push(part);
    }
}
