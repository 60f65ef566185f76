//! Why LoRAs are not made one.

use shared::error::{Classify, ErrorCode};

use super::super::file::LoraError;
use crate::ElementType;

/// Why a stack was not made one LoRA. Nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlendError {
    /// A LoRA cannot be read.
    #[error("`{lora}`: {source}")]
    Lora {
        /// The LoRA.
        lora: String,
        /// Why.
        #[source]
        source: LoraError,
    },
    /// A LoRA is not for the base.
    #[error("`{lora}` is not for the base: {refusal}")]
    NotForBase {
        /// The LoRA.
        lora: String,
        /// Why.
        refusal: String,
    },
    /// A name that only a base can tell.
    #[error("{reason}; name a base")]
    NeedsBase {
        /// What cannot be told.
        reason: String,
    },
    /// DoRA.
    #[error(
        "`{module}` of `{lora}` is DoRA: it changes the length of the base's own weights, which no sum of LoRAs does; bake it into a model instead"
    )]
    Magnitudes {
        /// The LoRA.
        lora: String,
        /// The module.
        module: String,
    },
    /// Two LoRAs change a module by other dimensions.
    #[error("`{module}`: `{lora}` changes {found:?}, another LoRA {expected:?}; they are for different bases")]
    Shapes {
        /// The module.
        module: String,
        /// The LoRA.
        lora: String,
        /// Rows and columns.
        found: [usize; 2],
        /// Rows and columns of the first.
        expected: [usize; 2],
    },
    /// What has no name in the wanted spelling.
    #[error("`{module}` cannot be written in this spelling: {reason}")]
    Spelling {
        /// The module.
        module: String,
        /// What, and what can be done.
        reason: &'static str,
    },
    /// Factors that do not fit the type.
    #[error("{values} values of `{module}` do not fit {element}; choose a wider type or smaller weights")]
    Overflow {
        /// The module.
        module: String,
        /// How many.
        values: usize,
        /// The type.
        element: ElementType,
    },
    /// All weights are zero.
    #[error("with these weights nothing is changed: there is nothing to write")]
    Nothing,
    /// The result would be too large.
    #[error("the result would have {bytes} bytes, more than {limit}; give a rank")]
    TooLarge {
        /// Bytes that it would have.
        bytes: u64,
        /// Most.
        limit: u64,
    },
    /// The caller said stop.
    #[error("stopped on request")]
    Cancelled,
    /// A thread that computed ended without a result.
    #[error("a thread that computed ended without a result")]
    Lost,
}

impl Classify for BlendError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Lora { source, .. } => source.code(),
            // room for what is larger than any result may be does not come: it is not waited for
            Self::NotForBase { .. }
            | Self::Magnitudes { .. }
            | Self::Spelling { .. }
            | Self::Shapes { .. }
            | Self::TooLarge { .. } => ErrorCode::Unsupported,
            Self::NeedsBase { .. } | Self::Overflow { .. } | Self::Nothing => ErrorCode::InvalidArgument,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Lost => ErrorCode::Internal,
        }
    }
}
