//! A model in another layout or type: planned from headers alone, then written tensor by tensor.
//!
//! 1. [`Plan::new`] says which files with which tensors come out, where each tensor's bytes come from, and what is left out. It is
//!    pure; names and shapes of single files are proven by reading them back.
//! 2. [`look`] reads what is to become narrower, so that what would overflow is known before anything is written.
//! 3. [`write()`] streams the tensors into a file or folder under another name beside the goal, flushes, reads it back, and gives it
//!    its name. A journal beside it lets a later attempt go on after the last whole tensors.
//!
//! Memory: a chunk of four mebibytes, and one tensor at a time where its elements change their order or a [`Change`] has it whole.

mod back;
mod cast;
mod config;
mod dropped;
mod emit;
mod error;
mod goal;
mod header;
mod journal;
mod lay_out;
mod look;
mod original;
mod parts;
mod plan;
mod source;
#[cfg(test)]
mod tests;
mod widened;
mod write;

pub use cast::Tally;
pub use config::Tokenizer;
pub use dropped::Dropped;
pub use emit::Change;
pub use error::ConvertError;
pub use look::{Found, bytes as look_bytes, look};
pub use plan::{Document, OutFile, OutTensor, Plan, Request};
pub use source::{Model, Said};
pub use widened::Widened;
pub use write::{Job, Made, MadeFile, check_goal, withdraw, write};

use crate::dtype::Dtype;

/// How tensors are laid out in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Under the names that they have.
    Same,
    /// One file under the original (LDM, SGM) names.
    SingleFile,
    /// A folder as diffusers has it; of a lone component, its folder.
    Diffusers,
}

/// The type that weights are to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The one that they have.
    Keep,
    /// 32-bit floats.
    Fp32,
    /// 16-bit IEEE floats.
    Fp16,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
}

impl Precision {
    /// What a tensor of this type becomes; none for floats that are not converted, which are those of eight bits and fewer.
    fn of(self, stored: Dtype) -> Option<Dtype> {
        let wanted = match self {
            Self::Keep => return Some(stored),
            Self::Fp32 => Dtype::F32,
            Self::Fp16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        };
        match stored {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Some(wanted),
            other if other.is_float() => None,
            other => Some(other),
        }
    }
}
