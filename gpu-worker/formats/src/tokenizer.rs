//! Tokenizer files: which kind they are, how many words they know, which special ones. Counted, not kept.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    error::{ErrorKind, FormatError},
    inspect::unknown,
    inspection::{Evidence, FileFacts, Inspection},
    probe::{Probe, read_json, stat},
    text::storable_json,
    vocab::{Format, ModelType},
};

/// Largest vocabulary file that is read; the largest in use have some ten million bytes.
const FILE_LIMIT_BYTES: u64 = 64 << 20;
const CONFIG_LIMIT_BYTES: u64 = 4 << 20;
/// Most special tokens that are kept.
const SPECIAL_TOKENS: usize = 128;
/// Files of a tokenizer, by name.
const FILES: &[&str] = &[
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// What a tokenizer folder holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tokenizer {
    /// `bpe`, `unigram`, `wordpiece`, `sentencepiece`, …
    pub kind: Option<String>,
    /// The class that its config names.
    pub class: Option<String>,
    /// Words of the vocabulary, with the added ones where the file lists them.
    pub vocab_size: Option<usize>,
    /// Merges of a BPE.
    pub merges: Option<usize>,
    /// Longest input, where the config sets one.
    pub model_max_length: Option<u64>,
    /// Special tokens by role (`bos_token`, …).
    pub special_tokens: BTreeMap<String, String>,
    /// What could not be read.
    pub problems: Vec<String>,
    /// Its files.
    #[serde(skip)]
    pub files: Vec<FileFacts>,
}

/// Whether a folder with these names is a tokenizer's.
#[must_use]
pub fn is_tokenizer(names: &[&str]) -> bool {
    let has = |name: &str| names.contains(&name);
    has("tokenizer.json") || (has("vocab.json") && has("merges.txt")) || has("spiece.model") || has("tokenizer.model")
}

/// Reads the tokenizer in `folder`; `below` precedes file names in relative paths (`tokenizer/`, or nothing).
///
/// # Errors
/// [`FormatError`] of kind `Unreadable`; what is damaged is named among the problems.
pub fn read(folder: &Path, below: &str) -> Result<Tokenizer, FormatError> {
    let mut found = Tokenizer::default();
    for name in FILES {
        match stat(&folder.join(name), &format!("{below}{name}")) {
            Ok(facts) => found.files.push(facts),
            Err(error) if error.kind() == ErrorKind::Missing => continue,
            Err(error) => {
                found.problem(name, error)?;
                continue;
            }
        }
        let read = found.file(folder, name);
        if let Err(error) = read {
            found.problem(name, error)?;
        }
    }
    Ok(found)
}

/// Inspects a tokenizer folder as a model of its own.
///
/// # Errors
/// As [`read`].
pub fn inspect(folder: &Path) -> Result<Inspection, FormatError> {
    let mut found = read(folder, "")?;
    let mut inspection = unknown(folder, Format::Tokenizer, std::mem::take(&mut found.files));
    inspection.model_type = if found.kind.is_some() { ModelType::Tokenizer } else { ModelType::Unknown };
    inspection.evidence.push(Evidence::new("tokenizer.kind", "tokenizer", found.kind.clone()));
    inspection.evidence.push(Evidence::new("tokenizer.vocab_size", "vocabulary", found.vocab_size));
    let mut reason = "base unknown: tokenizers are shared by several families".to_owned();
    if !found.problems.is_empty() {
        reason = format!("{reason}; {}", found.problems.join("; "));
    }
    inspection.reason = Some(reason);
    let value = serde_json::to_value(&found).unwrap_or_default();
    inspection.metadata.insert("tokenizer".to_owned(), storable_json(value));
    Ok(inspection)
}

impl Tokenizer {
    fn problem(&mut self, name: &str, error: FormatError) -> Result<(), FormatError> {
        if error.kind() == ErrorKind::Unreadable {
            return Err(error);
        }
        self.problems.push(format!("{name}: {}", error.full_text()));
        Ok(())
    }

    fn file(&mut self, folder: &Path, name: &str) -> Result<(), FormatError> {
        let path = folder.join(name);
        let document = |limit| read_json(&path, name, "tokenizer file", limit).map(|(value, _)| value);
        match name {
            "tokenizer.json" => self.fast(&document(FILE_LIMIT_BYTES)?),
            "vocab.json" if self.vocab_size.is_none() => {
                self.vocab_size = document(FILE_LIMIT_BYTES)?.as_object().map(Map::len);
                self.kind.get_or_insert_with(|| "bpe".to_owned());
            }
            "merges.txt" if self.merges.is_none() => {
                self.merges = Some(lines(&path, |line| !line.starts_with("#version"))?)
            }
            "vocab.txt" if self.vocab_size.is_none() => {
                self.vocab_size = Some(lines(&path, |_| true)?);
                self.kind.get_or_insert_with(|| "wordpiece".to_owned());
            }
            "spiece.model" | "tokenizer.model" => {
                self.kind.get_or_insert_with(|| "sentencepiece".to_owned());
            }
            "tokenizer_config.json" => self.config(&document(CONFIG_LIMIT_BYTES)?),
            "special_tokens_map.json" => self.special(&document(CONFIG_LIMIT_BYTES)?),
            _ => {}
        }
        Ok(())
    }

    /// The one-file form: model, vocabulary, added tokens.
    fn fast(&mut self, document: &Value) {
        let Some(model) = document.get("model") else { return };
        self.kind = model.get("type").and_then(Value::as_str).map(str::to_lowercase);
        let vocabulary = model.get("vocab");
        let words =
            vocabulary.and_then(|vocab| vocab.as_object().map(Map::len).or_else(|| vocab.as_array().map(Vec::len)));
        let added = document.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let known = |token: &str| vocabulary.and_then(Value::as_object).is_some_and(|vocab| vocab.contains_key(token));
        let extra = added
            .filter(|token| !token.get("content").and_then(Value::as_str).is_some_and(known))
            .filter(|token| {
                let id = token.get("id").and_then(Value::as_u64);
                id.is_some_and(|id| id >= words.unwrap_or_default() as u64)
            })
            .count();
        self.vocab_size = words.map(|words| words.saturating_add(extra));
        self.merges = model.get("merges").and_then(Value::as_array).map(Vec::len);
    }

    fn config(&mut self, document: &Value) {
        self.class = document.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned);
        // "no limit" is written as a number of thirty digits
        self.model_max_length = document.get("model_max_length").and_then(Value::as_u64);
        self.special(document);
    }

    /// Tokens by role: a text, or an object with its `content`.
    fn special(&mut self, document: &Value) {
        for (role, token) in document.as_object().into_iter().flatten() {
            let text = token.as_str().or_else(|| token.get("content").and_then(Value::as_str));
            if let Some(text) = text.filter(|_| role.ends_with("_token") && self.special_tokens.len() < SPECIAL_TOKENS)
            {
                self.special_tokens.insert(role.clone(), text.chars().take(256).collect());
            }
        }
    }
}

/// How many lines of a text file count.
fn lines(path: &Path, counts: fn(&str) -> bool) -> Result<usize, FormatError> {
    let probe = Probe::open(path, "")?;
    let size = probe.facts.size;
    let too_large = || FormatError::DocumentTooLarge { path: path.to_owned(), size, limit: FILE_LIMIT_BYTES };
    if size > FILE_LIMIT_BYTES {
        return Err(too_large());
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_large())?];
    probe.read_at(&mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter(|line| !line.trim().is_empty() && counts(line)).count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::testing::document;

    #[test]
    fn the_two_file_form() {
        let dir = TempDir::new().unwrap();
        document(&dir.path().join("vocab.json"), &json!({ "a": 0, "b</w>": 1, "ab</w>": 2 }));
        std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b</w>\n\n").unwrap();
        let config = json!({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!",
            "bos_token": { "content": "<|startoftext|>", "lstrip": false }, "add_prefix_space": false,
        });
        document(&dir.path().join("tokenizer_config.json"), &config);
        let found = read(dir.path(), "tokenizer/").unwrap();
        assert_eq!((found.kind.as_deref(), found.vocab_size, found.merges), (Some("bpe"), Some(3), Some(1)));
        assert_eq!((found.class.as_deref(), found.model_max_length), (Some("CLIPTokenizer"), Some(77)));
        assert_eq!(found.special_tokens["bos_token"], "<|startoftext|>");
        assert_eq!(found.special_tokens.len(), 2);
        assert_eq!(found.files[0].rel_path, "tokenizer/vocab.json");
        let model = inspect(dir.path()).unwrap();
        assert_eq!((model.model_type, model.format), (ModelType::Tokenizer, Format::Tokenizer));
    }

    #[test]
    fn the_one_file_form_and_damage() {
        let dir = TempDir::new().unwrap();
        let whole = json!({
            "model": { "type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]] },
            "added_tokens": [{ "id": 2, "content": "<extra>" }, { "id": 0, "content": "a" }],
        });
        document(&dir.path().join("tokenizer.json"), &whole);
        std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
        let found = read(dir.path(), "").unwrap();
        assert_eq!((found.kind.as_deref(), found.vocab_size), (Some("unigram"), Some(3)));
        assert_eq!(found.problems.len(), 1);
        assert!(inspect(dir.path()).unwrap().reason.unwrap().contains("tokenizer_config.json"));
        assert!(is_tokenizer(&["spiece.model"]) && !is_tokenizer(&["vocab.json", "config.json"]));
    }
}
