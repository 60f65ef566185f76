//! The closed set of error codes. One code decides the HTTP status, the process exit code, the retry and the metric label.

use serde::{Deserialize, Serialize};

/// What went wrong, as clients, metrics and the retry rule see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong; the same request can never succeed.
    InvalidArgument,
    /// What was named does not exist.
    NotFound,
    /// It exists and is in the way: in use, already there, or another request with this key.
    Conflict,
    /// A precondition header was missing or stale.
    Precondition,
    /// Nothing has room for it; says how much is missing.
    InsufficientCapacity,
    /// The file may run code; it is listed but never loaded.
    UnsafeFormat,
    /// The bytes are not what they should be: changed, truncated, wrong digest.
    Corrupt,
    /// A format, kind or device that this build or machine cannot handle.
    Unsupported,
    /// A part of the farm is not reachable now.
    Unavailable,
    /// It took longer than allowed.
    Timeout,
    /// Somebody asked for it to stop.
    Cancelled,
    /// The worker that ran it is gone and nothing else may take it.
    WorkerLost,
    /// A defect of ours.
    Internal,
}

/// What the job runner does with an attempt that ended in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Trying again cannot help.
    Fail,
    /// Try again after a growing delay; burns an attempt.
    Retry,
    /// The farm has no room now; try again without burning an attempt.
    Snooze,
    /// It was asked to stop.
    Cancel,
}

impl ErrorCode {
    /// All codes, for tables in docs and zero-initialised metrics.
    pub const ALL: [Self; 13] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::Conflict,
        Self::Precondition,
        Self::InsufficientCapacity,
        Self::UnsafeFormat,
        Self::Corrupt,
        Self::Unsupported,
        Self::Unavailable,
        Self::Timeout,
        Self::Cancelled,
        Self::WorkerLost,
        Self::Internal,
    ];

    /// The stable name in JSON, metrics and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Precondition => "precondition",
            Self::InsufficientCapacity => "insufficient_capacity",
            Self::UnsafeFormat => "unsafe_format",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::WorkerLost => "worker_lost",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of a problem with this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::NotFound => 404,
            Self::Conflict | Self::Cancelled => 409,
            Self::Precondition => 412,
            Self::InsufficientCapacity => 507,
            Self::UnsafeFormat | Self::Corrupt => 422,
            Self::Unsupported => 415,
            Self::Unavailable | Self::WorkerLost => 503,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }

    /// The exit code of a command that ended with this code (documented in `modelyard --help`).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument => 2,
            Self::NotFound => 3,
            Self::Conflict | Self::Precondition => 4,
            Self::Timeout => 6,
            Self::Unavailable => 7,
            Self::UnsafeFormat | Self::Corrupt | Self::Unsupported => 8,
            Self::InsufficientCapacity => 9,
            Self::Cancelled => 10,
            Self::WorkerLost | Self::Internal => 1,
        }
    }

    /// What the runner does with a job whose attempt failed with this code.
    pub fn disposition(self) -> Disposition {
        match self {
            Self::Unavailable | Self::Timeout | Self::WorkerLost | Self::Internal => Disposition::Retry,
            Self::InsufficientCapacity => Disposition::Snooze,
            Self::Cancelled => Disposition::Cancel,
            Self::InvalidArgument
            | Self::NotFound
            | Self::Conflict
            | Self::Precondition
            | Self::UnsafeFormat
            | Self::Corrupt
            | Self::Unsupported => Disposition::Fail,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Every error that crosses a package boundary says its code; nothing else decides statuses or retries.
pub trait Classify: std::error::Error {
    /// The code of this error.
    fn code(&self) -> ErrorCode;

    /// What the reader can do about it, apart from the fact.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error and its causes in one line: `reading header: permission denied`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// An error as it is stored with a job and shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// Closed code.
    pub code: ErrorCode,
    /// One sentence with the facts.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ErrorBody {
    /// Takes code, chain and hint from an error.
    pub fn of<E: Classify + 'static>(error: &E) -> Self {
        Self { code: error.code(), message: storable(chain(error)), hint: error.hint().map(storable) }
    }

    /// A body from its parts.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: storable(message.into()), hint: None }
    }
}

/// Longest text of an error in bytes: names of a hostile file may be quoted in it.
const TEXT_MAX: usize = 16 << 10;

/// A text that the database can store and a message can carry: without NUL, and cut where it is too long.
fn storable(text: String) -> String {
    if text.len() <= TEXT_MAX && !text.contains('\0') {
        return text;
    }
    let end = text.floor_char_boundary(TEXT_MAX);
    let cut = text.len() - end;
    let mut kept = text.get(..end).unwrap_or_default().replace('\0', "\u{fffd}");
    if cut > 0 {
        kept.push_str(&format!("… ({cut} bytes more)"));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hostile_file_says_can_be_stored() {
        let quoted = ErrorBody::new(ErrorCode::Corrupt, "only `a\0b`");
        assert_eq!(quoted.message, "only `a\u{fffd}b`");
        let long = ErrorBody::new(ErrorCode::Corrupt, "ü".repeat(TEXT_MAX));
        assert!(long.message.len() < TEXT_MAX + 64 && long.message.ends_with(&format!("({TEXT_MAX} bytes more)")));
    }
}
