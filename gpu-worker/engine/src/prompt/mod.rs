//! Prompts as users write them: weights in parentheses and brackets, escapes, `BREAK`; to chunks of weighted tokens.
//!
//! The notation is that of AUTOMATIC1111's web UI: `(word)` weighs 1.1, `[word]` 1/1.1, `(word:1.3)` what it says, nested ones multiply;
//! `\(`, `\)`, `\[`, `\]`, `\\` are the characters themselves; `BREAK` starts a new chunk. An opening bracket that nobody closes counts to the
//! end of the prompt, a closing one that nobody opened is text. How weights reach the states: see [`apply_weights`].

mod parse;
#[cfg(test)]
mod tests;
mod weigh;

use serde::{Deserialize, Serialize};
use shared::error::{Classify, ErrorCode};
use thiserror::Error;

pub use self::{
    parse::{Fragment, parse},
    weigh::apply_weights,
};
use crate::tokenize::{Chunk, ClipTokenizer, TokenizeError, WeightedToken};

/// Deepest nesting of brackets.
pub const DEPTH_LIMIT: usize = 64;
/// Largest weight, and with a minus sign the smallest.
pub const WEIGHT_LIMIT: f32 = 100.0;

/// Most chunks of a prompt: attention over more is never meant, and each of them is a run of every text encoder.
pub const CHUNK_LIMIT: usize = 64;

/// How the text of a prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptSyntax {
    /// With weights, escapes and `BREAK`.
    #[default]
    Weighted,
    /// As it is, as diffusers reads prompts.
    Plain,
}

/// What can be wrong with a prompt.
#[derive(Debug, Error)]
pub enum PromptError {
    /// Too many brackets within each other.
    #[error("brackets of the prompt are nested deeper than {limit}")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A weight, or the product of nested ones, that no model can use.
    #[error("the weight {weight} of `{text}` is beyond {limit}")]
    Weight {
        /// The weight.
        weight: f32,
        /// Beginning of its text.
        text: String,
        /// The limit.
        limit: f32,
    },
    /// More chunks than a prompt may have.
    #[error("the prompt is cut into {chunks} chunks, more than {limit}")]
    TooManyChunks {
        /// Chunks of the text.
        chunks: usize,
        /// The limit.
        limit: usize,
    },
    /// The text could not be tokenized.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
}

impl Classify for PromptError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::TooDeep { .. } | Self::Weight { .. } | Self::TooManyChunks { .. } => ErrorCode::InvalidArgument,
            Self::Tokenize(error) => error.code(),
        }
    }
}

/// The chunks of `text`, at least one and at most [`CHUNK_LIMIT`].
///
/// Each fragment of another weight is tokenized by itself. Chunks are cut after 75 tokens, wherever that is.
///
/// # Errors
/// [`PromptError`] for weights that cannot be, and prompts that are too long.
pub fn chunks(tokenizer: &ClipTokenizer, text: &str, syntax: PromptSyntax) -> Result<Vec<Chunk>, PromptError> {
    if syntax == PromptSyntax::Plain {
        let tokens = tokenizer.encode(text)?.into_iter().map(WeightedToken::plain).collect();
        return few(tokenizer.chunks(&[tokens]));
    }
    // before the parser sees it, whose work grows with the length
    if text.len() > crate::tokenize::PROMPT_LIMIT_BYTES {
        let limit = crate::tokenize::PROMPT_LIMIT_BYTES;
        return Err(TokenizeError::PromptTooLong { bytes: text.len(), limit }.into());
    }
    let mut sections = vec![Vec::new()];
    for fragment in parse(text)? {
        match fragment {
            Fragment::Break => sections.push(Vec::new()),
            Fragment::Text { text, weight } => {
                let ids = tokenizer.encode(&text)?;
                let tokens = ids.into_iter().map(|id| WeightedToken { id, weight });
                sections.last_mut().into_iter().for_each(|section| section.extend(tokens.clone()));
            }
        }
    }
    few(tokenizer.chunks(&sections))
}

fn few(chunks: Vec<Chunk>) -> Result<Vec<Chunk>, PromptError> {
    let limit = CHUNK_LIMIT;
    if chunks.len() > limit { Err(PromptError::TooManyChunks { chunks: chunks.len(), limit }) } else { Ok(chunks) }
}

/// The chunks of each text, in the order of the texts.
pub type Rows = Vec<Vec<Chunk>>;

/// The chunks of each text by each tokenizer, all of them equally many, and how many: shorter ones are filled up with chunks of an
/// empty prompt, since guidance compares states of one length, and the encoders of a pair may cut one text differently.
///
/// # Errors
/// As [`chunks`].
pub fn cut<'t>(
    tokenizers: impl IntoIterator<Item = &'t ClipTokenizer>,
    texts: &[&str],
    syntax: PromptSyntax,
) -> Result<(Vec<Rows>, usize), PromptError> {
    let mut cut = Vec::new();
    for tokenizer in tokenizers {
        let rows = texts.iter().map(|text| chunks(tokenizer, text, syntax)).collect::<Result<Vec<_>, _>>()?;
        cut.push((tokenizer, rows));
    }
    let longest = cut.iter().flat_map(|(_, rows)| rows).map(Vec::len).max().unwrap_or(0);
    for (tokenizer, rows) in &mut cut {
        rows.iter_mut().for_each(|chunks| chunks.resize_with(longest, || tokenizer.empty_chunk()));
    }
    Ok((cut.into_iter().map(|(_, rows)| rows).collect(), longest))
}
