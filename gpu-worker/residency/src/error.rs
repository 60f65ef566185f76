//! What can go wrong in the RAM tier, as facts; the text is one line, the cause is in `source()`.

use std::{io, path::PathBuf, sync::Arc};

use crate::{digest::Digest, entry::FailReason, identity::ChangedFile, request::Key};

/// Why the tier refused or could not finish. Cloneable, because every caller that joined one load
/// gets the same answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResidencyError {
    /// The request contradicts itself.
    #[error("bad load request for `{key}`: {reason}")]
    BadRequest {
        /// The component.
        key: Key,
        /// What is wrong, lowercase.
        reason: String,
    },
    /// A source file is not there.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A source file cannot be opened or examined.
    #[error("`{}` cannot be opened", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// A source is not a regular file (or is a symbolic link that the request does not allow).
    #[error("`{}` is a {found}, not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A tensor lies beyond the end of its file: a header that promises more than the file holds.
    #[error("tensor `{tensor}` ends at byte {end} but `{}` has {file_bytes}", path.display())]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its end offset in the file.
        end: u64,
        /// The file's real size.
        file_bytes: u64,
    },
    /// A source file is not (or no longer) the file that the caller described.
    #[error("{0}")]
    Changed(Box<ChangedFile>),
    /// The file ended before the bytes that it should hold, and its identity did not change.
    #[error("`{}` gave {got_bytes} of {wanted_bytes} bytes at offset {offset}", path.display())]
    ShortRead {
        /// The file.
        path: PathBuf,
        /// Offset of the read.
        offset: u64,
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// A read failed.
    #[error("cannot read `{}` at offset {offset}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Offset of the read.
        offset: u64,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// Nothing came from the disk for so long that the load was given up; a disk that had hung before is not asked again
    /// until its reads are back.
    #[error("no byte of `{}` came for {seconds} s: its disk or server does not answer", path.display())]
    Stalled {
        /// The first file of the load.
        path: PathBuf,
        /// How long.
        seconds: u64,
    },
    /// Nothing moved for so long that the load was given up, while its disks had answered all that they were asked: the
    /// system gives it no memory or no processor.
    #[error("nothing of `{key}` moved for {seconds} s, and no disk is waited for")]
    Stuck {
        /// The component.
        key: Key,
        /// How long.
        seconds: u64,
    },
    /// The system gave no memory file or mapping, although the budget had room.
    #[error("the system gave no arena of {bytes} bytes")]
    Memory {
        /// Bytes asked for.
        bytes: u64,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// A thread could not be started.
    #[error("cannot start a loader thread")]
    Thread {
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The bytes that were read are not the registered ones.
    #[error("component `{key}` has digest `{actual}`, expected `{expected}`")]
    DigestMismatch {
        /// The component.
        key: Key,
        /// What the caller registered.
        expected: Digest,
        /// What was read.
        actual: Digest,
    },
    /// The budget has no room and eviction cannot make it.
    #[error(transparent)]
    NoRoom(#[from] Shortage),
    /// The system's memory is short: the budget is cut below what was configured, and eviction cannot make room.
    #[error("memory pressure: {0}")]
    Pressure(Box<Squeeze>),
    /// The load was cancelled, by this caller or by [`crate::RamTier::cancel`].
    #[error("load of `{key}` was cancelled")]
    Cancelled {
        /// The component.
        key: Key,
    },
    /// The load's thread ended without an answer (a bug); its memory is back.
    #[error("load of `{key}` ended without an answer")]
    Aborted {
        /// The component.
        key: Key,
    },
    /// In use.
    #[error("component `{key}` is leased by {by} users")]
    Leased {
        /// The component.
        key: Key,
        /// Leases held, with callers about to get one.
        by: u32,
    },
    /// Kept by the operator.
    #[error("component `{key}` is protected")]
    Protected {
        /// The component.
        key: Key,
    },
    /// Being loaded: cancel it instead.
    #[error("component `{key}` is being loaded")]
    Loading {
        /// The component.
        key: Key,
    },
    /// Not in this tier.
    #[error("component `{key}` is not resident")]
    NotResident {
        /// The component.
        key: Key,
    },
}

/// How much is missing, and what eviction could give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error(
    "no room: {needed_bytes} bytes needed, {available_bytes} free of {capacity_bytes}, eviction would free {would_free_bytes}"
)]
pub struct Shortage {
    /// Bytes asked for, rounded up as the arena rounds them.
    pub needed_bytes: u64,
    /// Bytes that are neither used nor reserved.
    pub available_bytes: u64,
    /// Bytes of entries that are neither leased nor protected. Zero where only the budget was asked.
    pub would_free_bytes: u64,
    /// Budget less headroom.
    pub capacity_bytes: u64,
}

/// A shortage that the configured budget would not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{shortage}; the budget of {configured_bytes} bytes is cut because {cause}")]
pub struct Squeeze {
    /// What is missing.
    pub shortage: Shortage,
    /// The budget without the cut.
    pub configured_bytes: u64,
    /// Why it is cut.
    pub cause: String,
}

impl ResidencyError {
    /// The closed reason with which a load that ended in this error leaves its entry.
    pub fn fail_reason(&self) -> FailReason {
        match self {
            Self::BadRequest { .. } | Self::OutOfBounds { .. } => FailReason::Invalid,
            Self::Missing { .. } | Self::Unreadable { .. } | Self::NotRegular { .. } => FailReason::Unreadable,
            Self::Changed(_) => FailReason::Changed,
            Self::ShortRead { .. } | Self::Io { .. } | Self::Stalled { .. } => FailReason::Io,
            Self::Memory { .. } | Self::Thread { .. } | Self::Stuck { .. } => FailReason::System,
            Self::DigestMismatch { .. } => FailReason::Digest,
            Self::NoRoom(_) | Self::Pressure(_) => FailReason::NoRoom,
            Self::Cancelled { .. }
            | Self::Aborted { .. }
            | Self::Leased { .. }
            | Self::Protected { .. }
            | Self::Loading { .. }
            | Self::NotResident { .. } => FailReason::Internal,
        }
    }
}
