//! A tokenizer of a folder beside the encoder that reads what it makes.

use std::path::Path;

use serde_json::Value;

use crate::{
    error::ErrorKind,
    probe::read_json,
    validate::{Finding, Severity},
};

/// Largest vocabulary file that is read.
const VOCABULARY_LIMIT_BYTES: u64 = 16 << 20;
/// Lengths beyond this stand for no limit at all.
const NO_LIMIT: u64 = 1 << 20;

/// Looks at the tokenizer's files that are there. `rows` are the encoder's embeddings, `positions` the longest prompt.
pub(super) fn check(folder: &Path, name: &str, rows: Option<u64>, positions: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let read = |file: &str, findings: &mut Vec<Finding>| {
        let rel_path = format!("{name}/{file}");
        match read_json(&folder.join(&rel_path), &rel_path, "tokenizer file", VOCABULARY_LIMIT_BYTES) {
            Ok((document, _)) => Some(document),
            Err(error) if error.kind() == ErrorKind::Missing => None,
            Err(error) => {
                findings.push(Finding::new(Severity::Error, "corrupt_tokenizer", error.full_text()).of(name));
                None
            }
        }
    };
    let slow = read("vocab.json", &mut findings);
    let fast = read("tokenizer.json", &mut findings);
    let settings = read("tokenizer_config.json", &mut findings);
    if slow.as_ref().is_some_and(|vocabulary| !vocabulary.is_object()) {
        let message = "the vocabulary is not a map of tokens to ids";
        findings.push(Finding::new(Severity::Error, "corrupt_tokenizer", message).of(name));
    }
    let largest = [slow.as_ref().and_then(largest), fast.as_ref().and_then(largest_fast)].into_iter().flatten().max();
    findings.extend(rows.zip(largest).and_then(|(rows, largest)| too_many_ids(largest, rows)).map(|one| one.of(name)));
    let length = settings.as_ref().and_then(|settings| settings.get("model_max_length")?.as_u64());
    findings.extend(
        positions.zip(length).and_then(|(positions, length)| too_long(length, positions)).map(|one| one.of(name)),
    );
    findings
}

/// The largest id of a map of tokens.
fn largest(vocabulary: &Value) -> Option<u64> {
    vocabulary.as_object()?.values().filter_map(Value::as_u64).max()
}

/// The same of the file of the fast kind: a map, or a list whose places are the ids, and the tokens that were added.
fn largest_fast(document: &Value) -> Option<u64> {
    let vocabulary = document.get("model").and_then(|model| model.get("vocab"));
    let listed = vocabulary.and_then(Value::as_array).and_then(|list| u64::try_from(list.len()).ok()?.checked_sub(1));
    let added = document.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter_map(|token| token.get("id")?.as_u64()).max();
    [vocabulary.and_then(largest), listed, added].into_iter().flatten().max()
}

/// Ids beyond the embedding's rows cannot be encoded.
fn too_many_ids(largest: u64, rows: u64) -> Option<Finding> {
    (largest >= rows).then(|| {
        let message = format!("the vocabulary has id {largest}, the text encoder embeds {rows} ids");
        Finding::new(Severity::Error, "vocabulary_mismatch", message).but(format!("ids below {rows}"), largest)
    })
}

/// Prompts of this length have no place in the encoder.
fn too_long(length: u64, positions: u64) -> Option<Finding> {
    (length > positions && length < NO_LIMIT).then(|| {
        let message = format!("the tokenizer makes up to {length} tokens, the text encoder has {positions} positions");
        Finding::new(Severity::Warning, "length_mismatch", message).but(format!("at most {positions}"), length)
    })
}
