//! CLIP tokenizers: prompts to ids and back, lengths, padding, the cut into chunks of 75.
//!
//! A tokenizer comes from a folder (`tokenizer.json`, or `vocab.json` and `merges.txt`) or, for single-file checkpoints that carry
//! none, from the vocabulary in `clip/`. Ids equal those of transformers' `CLIPTokenizer`, including its habit of cutting the padding
//! token out of the prompt: SDXL's second tokenizer pads with `!`, so each `!` of a prompt is id 0 there.

mod chunk;
mod document;
mod error;
mod folder;
#[cfg(test)]
mod tests;

use std::fmt;

use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

pub use self::{
    chunk::{Chunk, WeightedToken},
    error::TokenizeError,
};

/// Longest prompt that is tokenized, in bytes.
pub const PROMPT_LIMIT_BYTES: usize = 64 << 10;
/// Tokens of an encoder's input, with both marks, unless the config says otherwise.
const DEFAULT_LENGTH: usize = 77;
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// What a tokenizer's config adds to its vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// Token before the prompt.
    pub begin: String,
    /// Token after the prompt; its first position is where pooled states are taken.
    pub end: String,
    /// Token that fills the rest; the end token where no config names one.
    pub pad: Option<String>,
    /// Ids of one chunk, with both marks.
    pub length: usize,
}

impl Default for TokenizerSettings {
    fn default() -> Self {
        Self { begin: BEGIN.to_owned(), end: END.to_owned(), pad: None, length: DEFAULT_LENGTH }
    }
}

impl TokenizerSettings {
    /// Settings of SDXL's second tokenizer (OpenCLIP bigG) and of SD 2's, which pad with `!` (id 0).
    #[must_use]
    pub fn padded_with_zero() -> Self {
        Self { pad: Some("!".to_owned()), ..Self::default() }
    }
}

/// A loaded tokenizer.
pub struct ClipTokenizer {
    inner: Tokenizer,
    begin: u32,
    end: u32,
    pad: u32,
    length: usize,
}

impl fmt::Debug for ClipTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begin, end, pad, length, .. } = self;
        write!(f, "ClipTokenizer {{ begin: {begin}, end: {end}, pad: {pad}, length: {length} }}")
    }
}

impl ClipTokenizer {
    /// The vocabulary that the CLIP models were trained with, 49,408 entries.
    ///
    /// # Errors
    /// [`TokenizeError::UnknownToken`] when the settings name a token that it lacks.
    pub fn shipped(settings: &TokenizerSettings) -> Result<Self, TokenizeError> {
        Self::from_json(&document::shipped(settings)?, "the shipped vocabulary", settings)
    }

    /// `vocab.json` and `merges.txt` of that vocabulary, as folders of diffusers have them.
    ///
    /// # Errors
    /// [`TokenizeError::Malformed`] when they cannot be written down.
    pub fn shipped_files() -> Result<[Vec<u8>; 2], TokenizeError> {
        document::shipped_files()
    }

    /// A tokenizer from the text of a `tokenizer.json`; `file` names it in errors.
    ///
    /// # Errors
    /// [`TokenizeError`] when it is damaged, no byte pair encoding, or lacks a mark.
    pub fn from_json(bytes: &[u8], file: &str, settings: &TokenizerSettings) -> Result<Self, TokenizeError> {
        let malformed =
            |error: tokenizers::Error| TokenizeError::Malformed { file: file.to_owned(), reason: error.to_string() };
        let mut inner = Tokenizer::from_bytes(bytes).map_err(malformed)?;
        if !matches!(inner.get_model(), ModelWrapper::BPE(_)) {
            return Err(TokenizeError::NotClip { file: file.to_owned() });
        }
        // a saved file may cut and pad by itself; the cut into chunks needs all tokens
        inner.with_padding(None).with_truncation(None).map_err(malformed)?;
        let pad = settings.pad.as_ref().unwrap_or(&settings.end);
        let id = |inner: &Tokenizer, token: &str| {
            inner
                .token_to_id(token)
                .ok_or_else(|| TokenizeError::UnknownToken { file: file.to_owned(), token: token.to_owned() })
        };
        let (begin, end) = (id(&inner, &settings.begin)?, id(&inner, &settings.end)?);
        let pad_id = id(&inner, pad)?;
        let marks = [&settings.begin, &settings.end, pad].map(|token| AddedToken::from(token.clone(), true));
        inner.add_special_tokens(marks).map_err(malformed)?;
        let length = settings.length.max(3);
        Ok(Self { inner, begin, end, pad: pad_id, length })
    }

    /// A tokenizer from a vocabulary (`{"token": id}`) and its merges, one a line.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_vocab(vocab: &[u8], merges: &str, settings: &TokenizerSettings) -> Result<Self, TokenizeError> {
        Self::from_json(&document::from_files(vocab, merges, settings)?, "vocab.json and merges.txt", settings)
    }

    /// Ids of `text` without marks, uncut.
    ///
    /// # Errors
    /// [`TokenizeError::PromptTooLong`] above [`PROMPT_LIMIT_BYTES`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        if text.len() > PROMPT_LIMIT_BYTES {
            return Err(TokenizeError::PromptTooLong { bytes: text.len(), limit: PROMPT_LIMIT_BYTES });
        }
        let encoding = self.inner.encode_fast(text, false).map_err(|error| TokenizeError::Malformed {
            file: "the vocabulary".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// How many tokens `text` has, without marks.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn count(&self, text: &str) -> Result<usize, TokenizeError> {
        self.encode(text).map(|ids| ids.len())
    }

    /// The text of `ids`, without marks and padding: lower case, words parted by one space, as the encoder sees it.
    ///
    /// # Errors
    /// [`TokenizeError::UnknownId`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        if let Some(&id) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(TokenizeError::UnknownId { id, size: self.vocabulary_size() });
        }
        let text = self.inner.decode(ids, true).map_err(|error| TokenizeError::Malformed {
            file: "the vocabulary".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(text.replace("</w>", " ").trim().to_owned())
    }

    /// One chunk as transformers makes it: marks, the first tokens that fit, padding.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_padded(&self, text: &str) -> Result<Chunk, TokenizeError> {
        let mut ids = self.encode(text)?;
        ids.truncate(self.chunk_tokens());
        Ok(self.chunk(ids.into_iter().map(WeightedToken::plain)))
    }

    /// The text of a single id, as it stands in the vocabulary (`cat</w>`).
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Entries of the vocabulary.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokens of a prompt that fit one chunk: its length without the two marks.
    #[must_use]
    pub fn chunk_tokens(&self) -> usize {
        self.length - 2
    }

    /// Id that ends a prompt.
    #[must_use]
    pub fn end_id(&self) -> u32 {
        self.end
    }

    /// Id that fills a chunk.
    #[must_use]
    pub fn pad_id(&self) -> u32 {
        self.pad
    }
}
