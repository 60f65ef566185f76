//! A `tokenizer.json` in memory, from a vocabulary and merges: those of a folder, or those that ship with us.

use serde_json::{Map, Value, json};

use super::{TokenizeError, TokenizerSettings};

/// First line a version, then one merge a line; `clip/LICENSE` says where they come from.
const MERGES: &str = include_str!("clip/merges.txt");
/// What errors call it.
const SHIPPED: &str = "the shipped vocabulary";
/// How OpenAI's tokenizer cuts words.
const WORDS: &str =
    concat!(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d", r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+");

/// The document of the shipped vocabulary.
pub(super) fn shipped(settings: &TokenizerSettings) -> Result<Vec<u8>, TokenizeError> {
    let merges = merges(MERGES);
    document(SHIPPED, shipped_words(&merges), &merges, settings)
}

/// The shipped vocabulary and its merges as files.
pub(super) fn shipped_files() -> Result<[Vec<u8>; 2], TokenizeError> {
    let malformed =
        |error: serde_json::Error| TokenizeError::Malformed { file: SHIPPED.to_owned(), reason: error.to_string() };
    let merges = merges(MERGES);
    let vocab = serde_json::to_vec(&shipped_words(&merges)).map_err(malformed)?;
    Ok([vocab, format!("#version: 0.2\n{}\n", merges.join("\n")).into_bytes()])
}

/// Every token of the shipped vocabulary with its number.
fn shipped_words(merges: &[&str]) -> Map<String, Value> {
    let symbols = byte_symbols();
    let ending = symbols.iter().map(|symbol| format!("{symbol}</w>"));
    let joined = merges.iter().map(|merge| merge.replacen(' ', "", 1));
    let marks = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let words = symbols.iter().map(char::to_string).chain(ending).chain(joined).chain(marks);
    words.zip(0u32..).map(|(word, id)| (word, id.into())).collect()
}

/// The document of a `vocab.json` and a `merges.txt`.
pub(super) fn from_files(vocab: &[u8], text: &str, settings: &TokenizerSettings) -> Result<Vec<u8>, TokenizeError> {
    let malformed = |error: serde_json::Error| TokenizeError::Malformed {
        file: "vocab.json".to_owned(),
        reason: error.to_string(),
    };
    let vocab: Map<String, Value> = serde_json::from_slice(vocab).map_err(malformed)?;
    document("vocab.json and merges.txt", vocab, &merges(text), settings)
}

/// Lines that are merges: not the version, not empty.
fn merges(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with("#version")).collect()
}

/// The character that stands for each byte, in the order of the vocabulary: printable bytes first, then the others
/// as characters from 256 on.
fn byte_symbols() -> Vec<char> {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let moved = 256..256 + (0..256).filter(|byte| !printable(byte)).count() as u32;
    (0..256).filter(printable).chain(moved).filter_map(char::from_u32).collect()
}

fn document(
    file: &str,
    vocab: Map<String, Value>,
    merges: &[&str],
    settings: &TokenizerSettings,
) -> Result<Vec<u8>, TokenizeError> {
    let id = |token: &str| {
        let id = vocab.get(token).and_then(Value::as_u64);
        id.ok_or_else(|| TokenizeError::UnknownToken { file: file.to_owned(), token: token.to_owned() })
    };
    let mut marks = vec![settings.begin.as_str(), settings.end.as_str()];
    marks.extend(settings.pad.as_deref().filter(|pad| !marks.contains(pad)));
    let mut added: Vec<(u64, &str)> =
        marks.into_iter().map(|token| id(token).map(|id| (id, token))).collect::<Result<_, _>>()?;
    added.sort_unstable();
    let added: Vec<Value> = added.into_iter().map(|(id, token)| special(id, token)).collect();
    let end = &settings.end;
    let document = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": end, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    });
    serde_json::to_vec(&document)
        .map_err(|error| TokenizeError::Malformed { file: file.to_owned(), reason: error.to_string() })
}

fn special(id: u64, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
    })
}
