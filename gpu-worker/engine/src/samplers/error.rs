//! What can be wrong with a schedule or a step.

use shared::error::{Classify, ErrorCode};
use thiserror::Error;

use super::SamplerKind;

/// Why there is no sampler, or no step.
#[derive(Debug, Error, PartialEq)]
pub enum SamplerError {
    /// A scheduler config that says nothing usable.
    #[error("the scheduler config is not usable: {reason}")]
    BadConfig {
        /// Why.
        reason: String,
    },
    /// A scheduler config with a setting that is not known here and would change the images.
    #[error("the scheduler config has `{field}`: {found}; {expected} is supported")]
    Unsupported {
        /// The field.
        field: String,
        /// What it says.
        found: String,
        /// What it may say.
        expected: String,
    },
    /// A name that no sampler has.
    #[error("there is no sampler `{name}`; known are euler, euler_ancestral, ddim, dpmpp_2m")]
    UnknownSampler {
        /// The name.
        name: String,
    },
    /// More or fewer steps than the schedule can have.
    #[error("{sampler} cannot take {steps} steps with this scheduler: at most {limit}, and each must lower the noise")]
    BadSteps {
        /// The sampler.
        sampler: SamplerKind,
        /// Steps that were asked for.
        steps: usize,
        /// Timesteps of training.
        limit: usize,
    },
    /// A sampler whose steps are timesteps of training only.
    #[error("{sampler} takes no Karras schedule; euler, euler_ancestral and dpmpp_2m do")]
    NoKarras {
        /// The sampler.
        sampler: SamplerKind,
    },
    /// Two slices that must have one length.
    #[error("{what} has {found} values where the sample has {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The sample's length.
        expected: usize,
    },
    /// A step out of order or beyond the last one.
    #[error("step {step} does not follow: {expected} is the next of {steps}")]
    Order {
        /// The step that was asked for.
        step: usize,
        /// The one that is next.
        expected: usize,
        /// Steps of the schedule.
        steps: usize,
    },
    /// A step that adds noise and was given none.
    #[error("{sampler} adds noise at every step and none was given")]
    NeedsNoise {
        /// The sampler.
        sampler: SamplerKind,
    },
}

impl Classify for SamplerError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::BadConfig { .. } => ErrorCode::Corrupt,
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::UnknownSampler { .. } | Self::BadSteps { .. } | Self::NoKarras { .. } => ErrorCode::InvalidArgument,
            Self::Length { .. } | Self::Order { .. } | Self::NeedsNoise { .. } => ErrorCode::Internal,
        }
    }
}
