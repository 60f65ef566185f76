//! Why a model could not be built or run.

use std::{io, path::PathBuf};

use shared::error::{Classify, ErrorCode};

use crate::tensor::ElementType;

/// What went wrong, with the facts.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no usable ONNX Runtime.
    #[error("no usable ONNX Runtime library: {reason}")]
    Library {
        /// The file that was tried, or none.
        path: Option<PathBuf>,
        /// Why it cannot be used.
        reason: String,
    },
    /// The weights lack tensors that the architecture has.
    #[error("{architecture}: {count} tensors are missing, first `{first}`")]
    MissingWeights {
        /// The architecture.
        architecture: String,
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// A tensor has another shape than the architecture.
    #[error("`{name}` has shape {found:?} where {expected:?} is expected")]
    WeightShape {
        /// Canonical name.
        name: String,
        /// Shape in the architecture.
        expected: Vec<usize>,
        /// Shape in the weights.
        found: Vec<usize>,
    },
    /// A tensor's element type cannot be used, or is not the one that the session was built for.
    #[error("`{name}` is stored as {found}, {expected} is expected")]
    WeightType {
        /// Canonical name.
        name: String,
        /// What can be used.
        expected: String,
        /// What it is.
        found: ElementType,
    },
    /// A tensor's bytes are not where the session can read them.
    #[error("the bytes of `{name}` cannot be bound: {reason}")]
    WeightMemory {
        /// Canonical name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A config names a shape or a feature that this architecture does not have.
    #[error("{architecture}: `{field}` is {found}, {expected} is expected")]
    Config {
        /// The architecture.
        architecture: &'static str,
        /// The field, or the tensor that shows it.
        field: String,
        /// What it says.
        found: String,
        /// What can be run.
        expected: String,
    },
    /// An input of the run is missing, unknown, or of another type or shape.
    #[error("input `{name}`: {found} where {expected} is expected")]
    Input {
        /// Name of the input.
        name: String,
        /// What was given.
        found: String,
        /// What the graph takes.
        expected: String,
    },
    /// The result holds values that are no numbers.
    #[error("`{output}` holds {nan} NaN and {infinite} infinite values of {elements}")]
    NotFinite {
        /// The output.
        output: String,
        /// NaN values.
        nan: usize,
        /// Infinite values.
        infinite: usize,
        /// All values.
        elements: usize,
    },
    /// The run needs more memory than it may take.
    #[error("{needed_bytes} bytes needed for the run, {available_bytes} available")]
    OutOfMemory {
        /// Estimate.
        needed_bytes: u64,
        /// Bound.
        available_bytes: u64,
    },
    /// Somebody asked for it to stop.
    #[error("the run was cancelled")]
    Cancelled,
    /// A file could not be read.
    #[error("`{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file's contents are not what they should be.
    #[error("`{}`: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// ONNX Runtime answered with an error.
    #[error("{what}: {answer}")]
    Onnx {
        /// What was tried.
        what: &'static str,
        /// Its words.
        answer: String,
    },
}

impl EngineError {
    /// Turns an answer of ONNX Runtime into an error of ours.
    pub(crate) fn onnx<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Onnx { what, answer: error.to_string() }
    }
}

impl Classify for EngineError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Library { .. } | Self::Config { .. } | Self::WeightType { .. } => ErrorCode::Unsupported,
            Self::MissingWeights { .. } | Self::WeightShape { .. } | Self::NotFinite { .. } | Self::Content { .. } => {
                ErrorCode::Corrupt
            }
            Self::Input { .. } => ErrorCode::InvalidArgument,
            Self::OutOfMemory { .. } => ErrorCode::InsufficientCapacity,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::File { .. } => ErrorCode::Unavailable,
            Self::WeightMemory { .. } | Self::Onnx { .. } => ErrorCode::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Library { .. } => {
                Some("install the Python package `onnxruntime` or name its library with --onnxruntime".to_owned())
            }
            Self::MissingWeights { .. } | Self::WeightShape { .. } => {
                Some("`validate` with level `architecture` lists every tensor that differs".to_owned())
            }
            Self::NotFinite { .. } => Some("`validate` with level `weights` finds NaN in the file itself".to_owned()),
            _ => None,
        }
    }
}
