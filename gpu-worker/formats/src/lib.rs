//! Bounded readers of model file headers: what a file or folder really is, which components it
//! holds, and where each tensor's bytes are.
//!
//! Content decides, never the name or the metadata. Only headers are read (with `pread`, never a
//! mapping), every number is checked before it is used, and nothing is executed. The crate knows no
//! runtime, no database and no policy.

pub mod architecture;
mod canonical;
mod components;
pub mod convert;
mod correction;
mod cursor;
mod detect;
mod diffusers;
mod discover;
mod dtype;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod gguf;
pub mod hash;
mod inspect;
mod inspection;
mod keys;
mod listing;
mod memo;
pub mod metadata;
pub mod onnx;
pub mod pickle;
mod probe;
mod recognise;
pub mod safetensors;
pub mod sidecar;
mod tensor_bytes;
#[cfg(test)]
mod testing;
mod text;
pub mod tokenizer;
pub mod validate;
mod vocab;
pub mod write;

pub use canonical::{Canonical, CanonicalTensor, FORM_VERSION, Order, Piece, canonicalise};
pub use correction::Correction;
pub use discover::{
    Candidate, CandidateKind, Discovery, cached_repository, discover, discover_within, is_passed_over, stamp,
};
pub use dtype::Dtype;
pub use error::{ErrorKind, FormatError, ShardProblem, TensorProblem};
pub use inspect::{inspect, inspect_all, inspect_as};
pub use inspection::{Component, ComponentSummary, Evidence, FileFacts, Inspection, Listing, TensorFacts};
pub use listing::Lister;
pub use memo::Memo;
pub use recognise::ADAPTER_METADATA_KEY;
pub use tensor_bytes::read_tensor;
pub use text::storable;
pub use vocab::{Base, ComponentKind, Format, ModelType};
