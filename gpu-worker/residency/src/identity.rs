//! Which file it is: size, modification time, inode and device, and how two sightings differ.

use std::{fmt, fs, io, os::unix::fs::MetadataExt, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What `fstat` says of a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970 (saturating).
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number as the kernel packs it.
    pub dev: u64,
}

/// A file to read, and the identity under which its tensor ranges were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it was when its header was read.
    pub expected: FileIdentity,
}

impl FileIdentity {
    /// Identity of the file at `path`, symbolic links followed.
    ///
    /// # Errors
    /// Whatever `stat` answers.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|meta| Self::from_metadata(&meta))
    }

    /// Identity from metadata already at hand.
    pub fn from_metadata(meta: &fs::Metadata) -> Self {
        Self {
            size: meta.size(),
            mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            inode: meta.ino(),
            dev: meta.dev(),
        }
    }

    /// The first fact in which `now` differs, most telling first.
    pub fn difference(&self, now: &Self) -> Option<ChangedFact> {
        if (self.inode, self.dev) != (now.inode, now.dev) {
            Some(ChangedFact::Replaced)
        } else if self.size != now.size {
            Some(ChangedFact::Size)
        } else if self.mtime_ns != now.mtime_ns {
            Some(ChangedFact::Mtime)
        } else {
            None
        }
    }
}

/// What about a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedFact {
    /// Another file is at the path now.
    Replaced,
    /// Truncated or grown.
    Size,
    /// Written to, at the same length.
    Mtime,
    /// No file is at the path any more.
    Removed,
}

/// A source file that is not what the caller described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedFile {
    /// The file.
    pub path: PathBuf,
    /// The first difference.
    pub what: ChangedFact,
    /// As described by the caller.
    pub before: FileIdentity,
    /// As found; none when it is gone.
    pub after: Option<FileIdentity>,
}

impl fmt::Display for ChangedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match (self.what, self.after) {
            (ChangedFact::Size, Some(after)) => {
                write!(f, "`{path}` changed size from {} to {} bytes", self.before.size, after.size)
            }
            (ChangedFact::Mtime, Some(after)) => write!(
                f,
                "`{path}` was written to: modification time {} ns became {} ns",
                self.before.mtime_ns, after.mtime_ns
            ),
            (ChangedFact::Replaced, Some(after)) => {
                write!(f, "`{path}` was replaced: inode {} became {}", self.before.inode, after.inode)
            }
            _ => write!(f, "`{path}` was removed"),
        }
    }
}
