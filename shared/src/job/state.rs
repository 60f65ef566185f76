//! The states of a job, as text in the database and on the wire.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a job is in its life; see the diagram in [`crate::job`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; waits for a place or for its time.
    Pending,
    /// Given to a device or host, not yet claimed.
    Placed,
    /// Claimed by a worker (or, for a job with children, started).
    Running,
    /// Done.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Killed its worker more often than allowed.
    Quarantined,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Placed, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Quarantined];

    /// True for states that never change.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Quarantined)
    }

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Placed => "placed",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job state")]
pub struct UnknownState(pub String);

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}
