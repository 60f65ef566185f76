//! Why a model was not converted.

use crate::{dtype::Dtype, error::FormatError, vocab::ComponentKind, write::WriteError};

/// Why a model was not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Models like this one do not go into that layout.
    #[error("it cannot be laid out as {layout}: {why}")]
    Layout {
        /// The layout.
        layout: &'static str,
        /// What is in the way.
        why: String,
    },
    /// The layout needs a part that the model lacks.
    #[error("it has no {component}, which {layout} needs")]
    NoPart {
        /// The part.
        component: ComponentKind,
        /// The layout.
        layout: &'static str,
    },
    /// A tensor that no name of the layout leads back to.
    #[error("`{tensor}` of its {component} has no place under original names")]
    NoOriginalName {
        /// The part.
        component: ComponentKind,
        /// The tensor, canonical.
        tensor: String,
    },
    /// Names that nobody knows.
    #[error("{count} tensors of its {component} are not known and have no place in the layout, first `{first}`")]
    Unknown {
        /// The part.
        component: ComponentKind,
        /// How many.
        count: usize,
        /// The first.
        first: String,
    },
    /// Tensors of this type stay as they are.
    #[error("`{tensor}` is stored as {found}, which is not converted to other types")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Dtype,
    },
    /// A tensor that is made of several, whose types no float holds together.
    #[error("`{tensor}` is made of tensors of types that none holds exactly: {parts}")]
    Types {
        /// The tensor that was to be.
        tensor: String,
        /// What it was to be made of, with types.
        parts: String,
    },
    /// There are no averaged weights.
    #[error("it keeps no averaged (EMA) weights beside those of its UNet")]
    NoAverage,
    /// A part that is a user's ONNX graph.
    #[error(
        "its {component} is an ONNX graph: its weights have the names and shapes of its exporter, and none of any layout"
    )]
    Graph {
        /// The part.
        component: ComponentKind,
    },
    /// Averaged weights of another shape, or missing ones.
    #[error("`{tensor}` has no averaged weight of its shape")]
    BadAverage {
        /// The tensor.
        tensor: String,
    },
    /// Weights that are no numbers.
    #[error("{values} values are not numbers, first in `{tensor}`")]
    NotNumbers {
        /// The first such tensor.
        tensor: String,
        /// How many values.
        values: u64,
    },
    /// Values that are too large for the type that was asked for, where a whole part does not keep its own for that.
    #[error("{values} values of `{tensor}` do not fit {dtype}, the largest is {largest:e}")]
    Overflow {
        /// The first such tensor.
        tensor: String,
        /// How many of its values.
        values: u64,
        /// Its largest absolute value.
        largest: f64,
        /// The type.
        dtype: Dtype,
    },
    /// A tensor could not be changed on the way.
    #[error("`{tensor}` of its {component} cannot be changed")]
    Change {
        /// The part.
        component: ComponentKind,
        /// The tensor, canonical.
        tensor: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was written is not what was meant to be.
    #[error("`{path}` was read back and is not what was written: {what}")]
    NotAsWritten {
        /// The file.
        path: String,
        /// The difference.
        what: String,
    },
    /// Another process writes to the same place.
    #[error("`{path}` is being written by another process")]
    Busy {
        /// The place.
        path: String,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
}
