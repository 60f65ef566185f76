//! Why a runner refused or failed, as the agent sees it.

use shared::{
    bytes::ByteSize,
    error::{Classify, ErrorBody, ErrorCode},
    ids::ComponentId,
};

use super::protocol::Failure;

/// A command that a runner did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunnerError {
    /// The process died under the command.
    #[error("the runner of `{device}` died: {how}")]
    Crashed {
        /// Device name.
        device: String,
        /// `signal 9`, `exit code 86: sticky device error`, …
        how: String,
    },
    /// There is no process that could take it.
    #[error("the runner of `{device}` is not available: {reason}")]
    Unavailable {
        /// Device name.
        device: String,
        /// Why.
        reason: String,
    },
    /// The device has no room.
    #[error(
        "device `{device}` has {} free of {}, {} are needed; unloading the rest would free {}",
        ByteSize(*available_bytes), ByteSize(*capacity_bytes), ByteSize(*needed_bytes), ByteSize(*would_free_bytes)
    )]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Bytes asked for.
        needed_bytes: u64,
        /// Bytes free.
        available_bytes: u64,
        /// Bytes in all.
        capacity_bytes: u64,
        /// Bytes of the components on it.
        would_free_bytes: u64,
    },
    /// The component is not on the device.
    #[error("component {component} is not on device `{device}`")]
    NotResident {
        /// Device name.
        device: String,
        /// The component.
        component: ComponentId,
    },
    /// Programs are attached to it, or a run reads it.
    #[error("component {component} on device `{device}` is in use by {leases} attached programs or runs")]
    InUse {
        /// Device name.
        device: String,
        /// The component.
        component: ComponentId,
        /// Leases on it.
        leases: u32,
    },
    /// The component has left the device, but not all of its memory came back.
    #[error("component {component} has left device `{device}`, and {freed_bytes} of its {owed_bytes} bytes came back")]
    NotFreed {
        /// Device name.
        device: String,
        /// The component.
        component: ComponentId,
        /// Bytes that came back.
        freed_bytes: u64,
        /// Bytes that it had.
        owed_bytes: u64,
    },
    /// The caller asked to stop.
    #[error("the work on `{device}` was cancelled")]
    Cancelled {
        /// Device name.
        device: String,
    },
    /// A run failed: the code and the words are those of whatever found the reason.
    #[error("{}", error.message)]
    Work {
        /// Device name.
        device: String,
        /// What is wrong.
        error: ErrorBody,
    },
    /// The command cannot be put into a message: it is too long.
    #[error("the command does not reach the runner of `{device}`: {reason}")]
    Unsendable {
        /// Device name.
        device: String,
        /// Why.
        reason: String,
    },
    /// The device failed but works on.
    #[error("device `{device}` failed: {message}")]
    Device {
        /// Device name.
        device: String,
        /// What it said.
        message: String,
    },
}

impl RunnerError {
    /// What a runner answered, with the device's name.
    pub(super) fn of(device: &str, failure: Failure) -> Self {
        let device = device.to_owned();
        match failure {
            Failure::OutOfMemory { needed_bytes, available_bytes, capacity_bytes, would_free_bytes } => {
                Self::OutOfMemory { device, needed_bytes, available_bytes, capacity_bytes, would_free_bytes }
            }
            Failure::NotResident { component } => Self::NotResident { device, component },
            Failure::InUse { component, leases } => Self::InUse { device, component, leases },
            Failure::NotFreed { component, freed_bytes, owed_bytes } => {
                Self::NotFreed { device, component, freed_bytes, owed_bytes }
            }
            Failure::Cancelled => Self::Cancelled { device },
            Failure::Device { message } => Self::Device { device, message },
            Failure::Work { error } => Self::Work { device, error },
        }
    }
}

impl Classify for RunnerError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Crashed { .. } | Self::Device { .. } => ErrorCode::Internal,
            Self::Unavailable { .. } => ErrorCode::Unavailable,
            Self::Work { error, .. } => error.code,
            Self::OutOfMemory { .. } => ErrorCode::InsufficientCapacity,
            Self::NotResident { .. } => ErrorCode::NotFound,
            // trying again would find nothing to unload, and call that a success
            Self::InUse { .. } | Self::NotFreed { .. } => ErrorCode::Conflict,
            Self::Cancelled { .. } => ErrorCode::Cancelled,
            Self::Unsendable { .. } => ErrorCode::InvalidArgument,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OutOfMemory { .. } => Some("unload other models from the device, or load fewer components".into()),
            Self::InUse { .. } => {
                Some("end the programs that are attached to it, or wait for the jobs that use it".into())
            }
            Self::NotFreed { .. } => Some(
                "the rest is freed before memory of the device is taken the next time, at the latest with its runner"
                    .into(),
            ),
            Self::Work { error, .. } => error.hint.clone(),
            _ => None,
        }
    }
}
