//! What whole files and folders are recognised as (`tests/reference/make_detection_files.py`), with the evidence that is given for it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Inspection, inspect};

/// One case of the script.
#[derive(Debug, Deserialize)]
struct Case {
    #[serde(rename = "type")]
    model_type: String,
    base: String,
    format: String,
    prediction: Option<String>,
    variant: Option<String>,
    tensors: Option<usize>,
    /// Of GGUF: how many tensors each type has.
    tensor_types: Option<Value>,
    /// The part of a model that a lone graph is.
    part: Option<String>,
    /// Of tokenizers.
    kind: Option<String>,
    vocab_size: Option<u64>,
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/detection")
}

fn look() -> BTreeMap<String, (Case, Inspection)> {
    let text = fs::read_to_string(golden().join("files/files.json")).unwrap();
    let cases: BTreeMap<String, Case> = serde_json::from_str(&text).unwrap();
    let looked_at = |(name, case): (String, Case)| {
        let found = inspect(&golden().join("files").join(&name)).unwrap();
        (name, (case, found))
    };
    cases.into_iter().map(looked_at).collect()
}

fn evidence(found: &Inspection) -> Value {
    json!({ "evidence": found.evidence, "reason": found.reason })
}

#[test]
fn files_and_folders_are_what_they_were_made_as() {
    for (name, (case, found)) in look() {
        let ours = json!([found.model_type, found.base, found.format, found.prediction]);
        assert_eq!(
            ours,
            json!([case.model_type, case.base, case.format, case.prediction]),
            "{name}: {:?}",
            found.reason
        );
        let told = |part: &str, key: &str| found.metadata.get(part).and_then(|part| part.get(key)).cloned();
        if case.part.is_some() {
            assert_eq!(told("facts", "part"), case.part.map(Value::from), "{name}");
        }
        if case.variant.is_some() {
            assert_eq!(found.variant, case.variant, "{name}");
        }
        if case.tensors.is_some() {
            assert_eq!(told("facts", "tensors"), case.tensors.map(Value::from), "{name}");
        }
        if let Some(types) = case.tensor_types {
            assert_eq!(told("facts", "tensor_types"), Some(types), "{name}");
            let listed = found.metadata["gguf_tensors"].as_array().unwrap();
            assert_eq!(Some(listed.len()), case.tensors, "{name}");
            let queries = json!({ "name": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "type": "Q8_0", "shape": [8, 768] });
            assert!(listed.contains(&queries), "{name}");
        }
        if case.kind.is_some() {
            assert_eq!(told("tokenizer", "kind"), case.kind.map(Value::from), "{name}");
            assert_eq!(told("tokenizer", "vocab_size"), case.vocab_size.map(Value::from), "{name}");
        }
    }
}

#[test]
fn the_evidence_for_files_is_the_one_that_was_reviewed() {
    let text = fs::read_to_string(golden().join("evidence_files.json")).unwrap();
    let reviewed: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let found = look();
    assert_eq!(reviewed.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (name, (_, found)) in &found {
        assert_eq!(evidence(found), reviewed[name], "{name}");
    }
}

#[test]
#[ignore = "writes the golden file; run it after a rule was changed on purpose"]
fn record_detection_evidence_of_files() {
    let all: BTreeMap<String, Value> = look().into_iter().map(|(name, (_, found))| (name, evidence(&found))).collect();
    let text = serde_json::to_string_pretty(&all).unwrap();
    fs::write(golden().join("evidence_files.json"), format!("{text}\n")).unwrap();
}
