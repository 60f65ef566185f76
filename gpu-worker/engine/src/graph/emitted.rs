//! What a finished graph is: the model's bytes, its weights, its inputs and outputs.

use crate::tensor::ElementType;

/// Who runs the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// ONNX Runtime's own kernels, and our loop for linear layers where the processor prefers it.
    Cpu,
    /// Its CUDA execution provider.
    Cuda,
}

impl Provider {
    /// `cpu`, `cuda`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// A side of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Always this.
    Fixed(usize),
    /// Any number; the same in one run wherever this name stands.
    Free(&'static str),
}

/// A side of an input or output, as a session knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// Always this.
    Fixed(usize),
    /// Any number; the same in one run wherever this name stands. Without a name, any number.
    Free(String),
}

impl From<Dim> for Side {
    fn from(dim: Dim) -> Self {
        match dim {
            Dim::Fixed(side) => Self::Fixed(side),
            Dim::Free(name) => Self::Free(name.to_owned()),
        }
    }
}

/// An input that is no weight, or an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: ElementType,
    /// Its sides; of an output none where the graph does not say them.
    pub dims: Vec<Side>,
}

/// An input that is a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name of the graph's input.
    pub input: String,
    /// Canonical name of the tensor.
    pub name: String,
    /// Shape of the tensor as it is stored.
    pub stored: Vec<usize>,
    /// Shape as the graph sees the same bytes.
    pub shape: Vec<usize>,
    /// As it is stored.
    pub dtype: ElementType,
}

/// A finished graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// What it is: `vae_decoder`, `unet2d`.
    pub name: String,
    /// For whom it was emitted.
    pub provider: Provider,
    /// The ONNX model.
    pub model: Vec<u8>,
    /// Weights, in the order in which they were asked for.
    pub slots: Vec<Slot>,
    /// Other inputs.
    pub inputs: Vec<Port>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Equal for equal graphs: architecture, sizes, storage types and provider.
    pub key: String,
    /// A weight of two sides or more (of a user's graph, any that is not of 32-bit floats) is converted before it is used, so that a run
    /// holds copies of some.
    pub is_converting: bool,
    /// A user's, with types and ranks of its own; not emitted here.
    pub is_users: bool,
}
