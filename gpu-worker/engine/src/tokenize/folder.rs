//! A tokenizer's folder: which files count, how they are read, what its configs say.

use std::{fs::File, io::Read, path::Path};

use serde_json::Value;

use super::{ClipTokenizer, TokenizeError, TokenizerSettings};

/// Largest file that is read; the largest in use have some four million bytes.
const FILE_LIMIT_BYTES: u64 = 64 << 20;
/// Longest input that a config may set; larger numbers mean "no limit" there.
const LENGTH_LIMIT: u64 = 4096;

impl ClipTokenizer {
    /// The tokenizer in `folder`: `tokenizer.json`, else `vocab.json` and `merges.txt`; marks, padding and length from
    /// `tokenizer_config.json`, else from `special_tokens_map.json`.
    ///
    /// # Errors
    /// [`TokenizeError`] that names the file and what is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, TokenizeError> {
        let settings = settings(folder)?;
        if let Some(bytes) = read(&folder.join("tokenizer.json"))? {
            let name = folder.join("tokenizer.json").display().to_string();
            return Self::from_json(&bytes, &name, &settings);
        }
        let files = (read(&folder.join("vocab.json"))?, read(&folder.join("merges.txt"))?);
        let (Some(vocab), Some(merges)) = files else {
            return Err(TokenizeError::Missing { folder: folder.to_owned() });
        };
        let merges = String::from_utf8(merges).map_err(|error| malformed(&folder.join("merges.txt"), &error))?;
        Self::from_vocab(&vocab, &merges, &settings)
    }
}

/// What the configs of `folder` say; later files fill what earlier ones leave open.
fn settings(folder: &Path) -> Result<TokenizerSettings, TokenizeError> {
    let mut found = TokenizerSettings::default();
    let mut marks: [Option<String>; 3] = [None, None, None];
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(name);
        let Some(bytes) = read(&path)? else { continue };
        let config: Value = serde_json::from_slice(&bytes).map_err(|error| malformed(&path, &error))?;
        for (mark, key) in marks.iter_mut().zip(["bos_token", "eos_token", "pad_token"]) {
            *mark = mark.take().or_else(|| token(&config, key));
        }
        let length = config.get("model_max_length").and_then(Value::as_u64);
        if let Some(length) = length.filter(|length| (3..=LENGTH_LIMIT).contains(length)) {
            found.length = usize::try_from(length).unwrap_or(found.length);
        }
    }
    let [begin, end, pad] = marks;
    found.begin = begin.unwrap_or(found.begin);
    found.end = end.unwrap_or(found.end);
    found.pad = pad;
    Ok(found)
}

/// A token is a text, or an object with its `content`.
fn token(config: &Value, key: &str) -> Option<String> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The bytes of a file, nothing when there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, TokenizeError> {
    let unreadable = |source| TokenizeError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let bytes = file.metadata().map_err(unreadable)?.len();
    let mut content = Vec::new();
    // the file may grow while it is read
    file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    if bytes > FILE_LIMIT_BYTES || content.len() as u64 > FILE_LIMIT_BYTES {
        return Err(TokenizeError::TooLarge { path: path.to_owned(), bytes, limit: FILE_LIMIT_BYTES });
    }
    Ok(Some(content))
}

fn malformed(path: &Path, error: &dyn std::error::Error) -> TokenizeError {
    TokenizeError::Malformed { file: path.display().to_string(), reason: error.to_string() }
}
