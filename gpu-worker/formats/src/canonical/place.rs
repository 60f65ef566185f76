//! What becomes of one tensor of the file.

use super::{
    projection::Form,
    view::{CanonicalTensor, View},
};
use crate::inspection::TensorFacts;

/// The canonical place of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// This tensor, as it is.
    Same(String),
    /// A linear weight that may be stored as a 1×1 convolution.
    Matrix(String),
    /// A linear weight in this form; one that is no matrix stays as it is.
    Projection(String, Form),
    /// Each of these, with the same bytes.
    Copies(Vec<String>),
    /// This matrix, transposed.
    Transposed(String),
    /// These tensors, each with its number of rows: together all rows.
    Rows(Vec<(String, u64)>),
    /// These tensors, with equally many rows each.
    Equal(Vec<String>),
    /// This tensor with its two halves swapped: scale and shift the other way round.
    Swapped(String),
    /// Known, and no weight.
    Ignored,
}

impl Place {
    /// The tensor as it is under `name`.
    pub(super) fn same(name: impl Into<String>) -> Self {
        Self::Same(name.into())
    }

    /// The canonical tensors; none where the shape does not allow it.
    pub(super) fn apply(self, index: usize, tensor: &TensorFacts) -> Option<Vec<CanonicalTensor>> {
        let view = View::of(index, tensor);
        match self {
            Self::Same(name) => Some(vec![view.named(name)]),
            Self::Matrix(name) => Some(vec![view.matrix()?.named(name)]),
            Self::Projection(name, form) => {
                let formed = match form {
                    Form::Convolution => view.pointwise(),
                    Form::Linear => view.matrix(),
                };
                Some(vec![formed.unwrap_or(view).named(name)])
            }
            Self::Copies(names) => Some(names.into_iter().map(|name| view.clone().named(name)).collect()),
            Self::Transposed(name) => Some(vec![view.transposed()?.named(name)]),
            Self::Swapped(name) => Some(vec![swapped(&view, name)?]),
            Self::Rows(parts) => rows(&view, parts),
            Self::Equal(names) => {
                let each = share(&view, u64::try_from(names.len()).ok()?)?;
                rows(&view, names.into_iter().map(|name| (name, each)).collect())
            }
            Self::Ignored => Some(Vec::new()),
        }
    }
}

/// Rows of one of `parts` equal parts.
fn share(view: &View, parts: u64) -> Option<u64> {
    let rows = *view.shape.first()?;
    rows.is_multiple_of(parts).then(|| rows.checked_div(parts))?
}

fn swapped(view: &View, name: String) -> Option<CanonicalTensor> {
    let half = share(view, 2)?;
    view.rows(half, half)?.stacked(view.rows(0, half)?, name)
}

fn rows(view: &View, parts: Vec<(String, u64)>) -> Option<Vec<CanonicalTensor>> {
    let mut first = 0_u64;
    let mut tensors = Vec::with_capacity(parts.len());
    for (name, count) in parts {
        tensors.push(view.rows(first, count)?.named(name));
        first = first.checked_add(count)?;
    }
    (view.shape.first() == Some(&first)).then_some(tensors)
}
