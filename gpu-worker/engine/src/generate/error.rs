//! Why there are no images.

use shared::error::{Classify, ErrorCode};
use thiserror::Error;

use crate::{error::EngineError, images::ImageError, prompt::PromptError, samplers::SamplerError};

/// What went wrong between a prompt and its images.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The sampler or its schedule.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A model, or its inputs.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Classify for GenerateError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Prompt(error) => error.code(),
            Self::Sampler(error) => error.code(),
            Self::Image(error) => error.code(),
            Self::Engine(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint(),
            _ => None,
        }
    }
}
