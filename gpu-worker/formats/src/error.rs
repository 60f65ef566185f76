//! What can be wrong with a model file: one typed error with the facts in its fields.

use std::{fmt, io, path::PathBuf};

use crate::{text::shown, vocab::Format};

/// The closed set of error classes that callers decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing is at the path.
    Missing,
    /// It is there but cannot be read now (permissions, I/O error, changed while reading).
    Unreadable,
    /// Its bytes contradict its format.
    Corrupt,
    /// A format or feature that this version does not read.
    Unsupported,
    /// Refused because following it could reach outside the model (devices, path tricks).
    Unsafe,
    /// Refused because loading it as its own program does would run code from the file.
    UnsafeFormat,
}

impl ErrorKind {
    /// The stable lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Unsafe => "unsafe",
            Self::UnsafeFormat => "unsafe_format",
        }
    }
}

/// What is wrong with one tensor's entry in a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// Data before it is unused: the file has bytes no tensor owns.
    #[error("its data begins at {found} but the previous tensor ends at {expected} (a hole)")]
    Hole {
        /// Where it must begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// Its data overlaps the tensor before it.
    #[error("its data begins at {found} but the previous tensor ends at {expected} (an overlap)")]
    Overlap {
        /// Where it must begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// End before begin.
    #[error("its data ends at {end}, before it begins at {begin}")]
    Reversed {
        /// Declared begin.
        begin: u64,
        /// Declared end.
        end: u64,
    },
    /// Its data ends beyond the file.
    #[error("its data ends at {end} but the file holds {available} data bytes")]
    BeyondFile {
        /// Declared end, relative to the data.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// The shape's product does not fit 64 bits.
    #[error("its shape overflows 64 bits")]
    Overflow,
    /// Sub-byte elements that do not fill whole bytes.
    #[error("its {bits} bits are not whole bytes")]
    PartialByte {
        /// Bits needed.
        bits: u64,
    },
    /// Shape and data range disagree.
    #[error("its shape needs {expected} bytes but its data range has {found}")]
    SizeMismatch {
        /// Bytes by shape and dtype.
        expected: u64,
        /// Bytes by offsets.
        found: u64,
    },
}

/// Why a model could not be read. `Display` is one line and names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum FormatError {
    #[error("{}: no such file or folder", path.display())]
    Missing { path: PathBuf },
    #[error("{}: not a regular file but {what}; not opened", path.display())]
    NotRegular { path: PathBuf, what: &'static str },
    #[error("{}: {doing} failed", path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("{}: changed while it was read", path.display())]
    Changed { path: PathBuf },
    #[error("{}: named as safetensors but is {}", path.display(), found.description())]
    WrongFormat { path: PathBuf, found: Format },
    #[error("{}: {size} bytes, too short for a safetensors file (at least 8)", path.display())]
    TooShort { path: PathBuf, size: u64 },
    #[error("{}: header of {declared} bytes declared, the limit is {limit}", path.display())]
    HeaderTooLarge { path: PathBuf, declared: u64, limit: u64 },
    #[error("{}: header of {declared} bytes declared but the file has {size} bytes in all (truncated?)", path.display())]
    HeaderTruncated { path: PathBuf, declared: u64, size: u64 },
    #[error("{}: the header does not begin with an opening brace", path.display())]
    HeaderStart { path: PathBuf },
    #[error("{}: the header is not UTF-8 at byte {at}", path.display())]
    HeaderNotUtf8 { path: PathBuf, at: usize },
    #[error("{}: the header is not a valid safetensors header", path.display())]
    HeaderInvalid { path: PathBuf, source: serde_json::Error },
    #[error("{}: tensor `{}` is named twice", path.display(), shown(tensor))]
    DuplicateTensor { path: PathBuf, tensor: String },
    #[error("{}: metadata key `{}` is given twice", path.display(), shown(key))]
    DuplicateMetadata { path: PathBuf, key: String },
    #[error("{}: tensor `{}`: {problem}", path.display(), shown(tensor))]
    Tensor { path: PathBuf, tensor: String, problem: TensorProblem },
    #[error("{}: the tensors end at data byte {expected} but the file has {found} data bytes", path.display())]
    TrailingBytes { path: PathBuf, expected: u64, found: u64 },
    #[error("{}: not a valid {what}", path.display())]
    Document { path: PathBuf, what: &'static str, source: serde_json::Error },
    #[error("{}: {size} bytes, the limit for this kind of file is {limit}", path.display())]
    DocumentTooLarge { path: PathBuf, size: u64, limit: u64 },
    #[error("{}: names the file `{}`, which is not a plain file name beside it", path.display(), shown(name))]
    UnsafeName { path: PathBuf, name: String },
    #[error("{}: {problem}", path.display())]
    Shards { path: PathBuf, problem: ShardProblem },
    #[error("{}: {why}", path.display())]
    NoWeights { path: PathBuf, why: String },
    #[error("{}: no weights of the variant `{}`; there are those of: {}", path.display(), shown(variant), listed(has))]
    NoVariant { path: PathBuf, variant: String, has: Vec<String> },
    #[error("{}: not a readable {format} file: {problem} (at byte {at})", path.display())]
    Structure { path: PathBuf, format: Format, at: u64, problem: &'static str },
    #[error("{}: more than {limit} {what}", path.display())]
    TooMany { path: PathBuf, what: &'static str, limit: u64 },
    #[error("{}: unsafe_format: loading it would run code: {what} (at byte {at})", path.display())]
    RunsCode { path: PathBuf, what: String, at: u64 },
    #[error("{}: not read: {what}", path.display())]
    NotHandled { path: PathBuf, what: String },
}

/// How an index and its shards disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum ShardProblem {
    #[error("names no shard")]
    Empty,
    #[error("names {found} shards of {expected}")]
    Incomplete { expected: u64, found: u64 },
    #[error("tensor `{}` is not in `{}` where the index puts it", shown(tensor), shown(shard))]
    NotThere { tensor: String, shard: String },
    #[error("tensor `{}` is in two shards", shown(tensor))]
    Twice { tensor: String },
}

impl FormatError {
    /// The class of the error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Missing,
            Self::Io { .. } | Self::Changed { .. } => ErrorKind::Unreadable,
            Self::WrongFormat { .. } | Self::NoWeights { .. } | Self::NoVariant { .. } | Self::NotHandled { .. } => {
                ErrorKind::Unsupported
            }
            Self::RunsCode { .. } => ErrorKind::UnsafeFormat,
            Self::NotRegular { .. } | Self::UnsafeName { .. } => ErrorKind::Unsafe,
            Self::TooShort { .. }
            | Self::HeaderTooLarge { .. }
            | Self::HeaderTruncated { .. }
            | Self::HeaderStart { .. }
            | Self::HeaderNotUtf8 { .. }
            | Self::HeaderInvalid { .. }
            | Self::DuplicateTensor { .. }
            | Self::DuplicateMetadata { .. }
            | Self::Tensor { .. }
            | Self::TrailingBytes { .. }
            | Self::Document { .. }
            | Self::DocumentTooLarge { .. }
            | Self::Structure { .. }
            | Self::TooMany { .. }
            | Self::Shards { .. } => ErrorKind::Corrupt,
        }
    }

    /// The stable lower-case name of [`FormatError::kind`].
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.kind().as_str()
    }

    /// An I/O failure, with "not there" told apart.
    pub(crate) fn io(path: &std::path::Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            _ => Self::Io { path, doing, source },
        }
    }

    /// The message with its causes, on one line.
    #[must_use]
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Names in one line.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
