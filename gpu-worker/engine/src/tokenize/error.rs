//! What can be wrong with a tokenizer's files, a prompt or ids.

use std::{io, path::PathBuf};

use shared::error::{Classify, ErrorCode};
use thiserror::Error;

/// Why there is no tokenizer, or no tokens.
#[derive(Debug, Error)]
pub enum TokenizeError {
    /// A folder without the files of a tokenizer.
    #[error("`{folder}` has no tokenizer: tokenizer.json, or vocab.json and merges.txt, is needed", folder = folder.display())]
    Missing {
        /// Where they were looked for.
        folder: PathBuf,
    },
    /// A file that could not be read.
    #[error("`{path}` cannot be read", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file that no tokenizer has.
    #[error("`{path}` has {bytes} bytes, more than the {limit} that a tokenizer may have", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest that is read.
        limit: u64,
    },
    /// A file that is not what its name says.
    #[error("{file} is damaged: {reason}")]
    Malformed {
        /// Which file.
        file: String,
        /// What the reader said.
        reason: String,
    },
    /// A tokenizer of another family (T5 has a unigram model).
    #[error("{file} is no byte pair encoding, so no tokenizer of a CLIP encoder")]
    NotClip {
        /// Which file.
        file: String,
    },
    /// A mark that the vocabulary lacks.
    #[error("{file} has no token `{token}`, which its config or the encoder needs")]
    UnknownToken {
        /// Which file.
        file: String,
        /// The token.
        token: String,
    },
    /// An id outside the vocabulary.
    #[error("there is no token {id}: the vocabulary has {size} entries")]
    UnknownId {
        /// The id.
        id: u32,
        /// Entries of the vocabulary.
        size: usize,
    },
    /// A prompt that is longer than any encoder's use of it.
    #[error("the prompt has {bytes} bytes; at most {limit} are tokenized")]
    PromptTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl Classify for TokenizeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::NotFound,
            Self::Unreadable { .. } => ErrorCode::Unavailable,
            Self::TooLarge { .. } | Self::Malformed { .. } | Self::UnknownToken { .. } => ErrorCode::Corrupt,
            Self::NotClip { .. } => ErrorCode::Unsupported,
            Self::UnknownId { .. } | Self::PromptTooLong { .. } => ErrorCode::InvalidArgument,
        }
    }
}
