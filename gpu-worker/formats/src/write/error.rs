//! Why something was not written.

use std::{io, path::PathBuf};

use crate::error::FormatError;

/// Why a side-car or copy was not written. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The path is not one below the root.
    #[error("`{path}` is no path that can be written: {why}")]
    BadPath {
        /// As given, below the root.
        path: String,
        /// What is wrong with it.
        why: std::borrow::Cow<'static, str>,
    },
    /// The folder to write into is not there, or leads out of the root.
    #[error("`{path}` cannot be written: its folder is not a folder of the root")]
    NoFolder {
        /// As given, below the root.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Something has that name.
    #[error("{} is there already", path.display())]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// Something has that name, and overwriting was allowed, but it was not written by us.
    #[error("{} is no file that modelyard wrote; it is not overwritten", path.display())]
    NotOurs {
        /// What is in the way.
        path: PathBuf,
    },
    /// What somebody put there in the last moment was moved away and could not be put back.
    #[error("{} was somebody else's, and cannot be put back: it is at {} now; move it away before anything is written there again", path.display(), now.display())]
    Displaced {
        /// Where it was.
        path: PathBuf,
        /// Where it is.
        now: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What has that name is read for what is written.
    #[error("{} is a model that this is made from; it is not overwritten", path.display())]
    IsSource {
        /// What is in the way.
        path: PathBuf,
    },
    /// The folder, or its file system, takes no writes from this process.
    #[error("{} takes no new files", path.display())]
    ReadOnly {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file system has no room.
    #[error("{}: {needed_bytes} bytes are needed and {free_bytes} are free", path.display())]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes to be written.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// The new header would be longer than the format allows.
    #[error("{}: the new header of {bytes} bytes is longer than the format allows ({limit_bytes})", path.display())]
    HeaderTooLarge {
        /// The file to be copied.
        path: PathBuf,
        /// Bytes of the new header.
        bytes: u64,
        /// The format's limit.
        limit_bytes: u64,
    },
    /// What was read is not what the catalogue knows.
    #[error("{}: the bytes that follow its header have the SHA-256 {found}, {expected} is known of it", path.display())]
    OtherBytes {
        /// The file that was copied.
        path: PathBuf,
        /// As recorded.
        expected: String,
        /// As read.
        found: String,
    },
    /// The file to be copied cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The system answered with an error.
    #[error("{}: {doing} failed", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The caller said stop.
    #[error("stopped on request")]
    Stopped,
}
