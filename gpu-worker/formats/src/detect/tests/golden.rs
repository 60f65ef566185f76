//! What real architectures are recognised as (`tests/reference/make_detection.py`), with the evidence that is given for it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    Base, Correction, Dtype, Inspection, Lister, Memo, ModelType, inspect, inspect_as, safetensors::Section,
    testing::raw,
};

/// One case of the script.
#[derive(Debug, Deserialize)]
struct Case {
    #[serde(rename = "type")]
    model_type: String,
    base: String,
    prediction: Option<String>,
    variant: Option<String>,
    facts: Map<String, Value>,
    metadata: Map<String, Value>,
    tensors: BTreeMap<String, Vec<u64>>,
    parts: Vec<Part>,
}

/// A list of tensors as the file has it.
#[derive(Debug, Deserialize)]
struct Part {
    list: String,
    prefix: String,
    dtype: String,
    /// Shapes that this file has instead of the list's.
    shapes: BTreeMap<String, Vec<u64>>,
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden")
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(&fs::read_to_string(golden().join("detection/cases.json")).unwrap()).unwrap()
}

/// Name and shape of a list, or of the file's side of a map.
fn list(name: &str) -> Vec<(String, Vec<u64>)> {
    let ending = if name.starts_with("maps/") { "tsv" } else { "txt" };
    let path = golden().join(format!("{name}.{ending}"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.starts_with(['#', '>'])).map(|line| line.trim_start_matches("<\t"));
    let sides =
        |text: &str| text.split('x').filter(|side| !side.is_empty()).map(|side| side.parse().unwrap()).collect();
    lines.map(|line| line.split_once('\t').unwrap()).map(|(name, shape)| (name.to_owned(), sides(shape))).collect()
}

/// The entries of a case's header but its metadata, and the bytes that they promise.
fn entries(case: &Case) -> (Map<String, Value>, u64) {
    let mut header = Map::new();
    let mut at = 0_u64;
    let mut put = |name: String, dtype: &str, shape: &[u64]| {
        let bits = Dtype::parse(dtype).unwrap().bits();
        let end = at + shape.iter().product::<u64>() * bits / 8;
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        at = end;
    };
    for part in &case.parts {
        for (name, shape) in list(&part.list) {
            let name = format!("{}{name}", part.prefix);
            let shape = part.shapes.get(&name).unwrap_or(&shape);
            put(name, &part.dtype, shape);
        }
        let listed = |name: &String| list(&part.list).iter().any(|(known, _)| known == name);
        assert!(part.shapes.keys().all(listed), "{} has no tensor of {:?}", part.list, part.shapes);
    }
    case.tensors.iter().for_each(|(name, shape)| put(name.clone(), "F16", shape));
    (header, at)
}

/// The file of a case: its header over sparse data.
fn file(folder: &Path, case: &Case) -> PathBuf {
    let (mut header, bytes) = entries(case);
    if !case.metadata.is_empty() {
        header.insert("__metadata__".to_owned(), Value::Object(case.metadata.clone()));
    }
    raw(&folder.join("case.safetensors"), &serde_json::to_vec(&header).unwrap(), bytes)
}

fn look(case: &Case) -> Inspection {
    let dir = TempDir::new().unwrap();
    inspect(&file(dir.path(), case)).unwrap()
}

fn evidence(found: &Inspection) -> Value {
    json!({ "evidence": found.evidence, "reason": found.reason })
}

#[test]
fn real_architectures_are_what_they_were_made_as() {
    let mut wrong = Vec::new();
    for (name, case) in cases() {
        let found = look(&case);
        let ours = json!([found.model_type, found.base, found.prediction, found.variant]);
        let theirs = json!([case.model_type, case.base, case.prediction, case.variant]);
        if ours != theirs {
            wrong.push(format!("{name}: {ours}, but it is {theirs}; {:?}", found.reason));
        }
        let facts = &found.metadata["facts"];
        let others = case.facts.iter().filter(|(key, value)| facts.get(*key) != Some(value));
        wrong.extend(others.map(|(key, value)| format!("{name}: {key} is {value}, not {:?}", facts.get(key))));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_evidence_for_each_is_the_one_that_was_reviewed() {
    let reviewed: BTreeMap<String, Value> =
        serde_json::from_str(&fs::read_to_string(golden().join("detection/evidence.json")).unwrap()).unwrap();
    let cases = cases();
    assert_eq!(reviewed.keys().collect::<Vec<_>>(), cases.keys().collect::<Vec<_>>());
    for (name, case) in cases {
        assert_eq!(evidence(&look(&case)), reviewed[&name], "{name}");
    }
}

/// Metadata that says nothing, and claims of all kinds.
fn claims() -> [Value; 5] {
    [
        Value::Null,
        json!({ "format": "pt", "nested": "{\"a\": \"}\"}" }),
        json!({ "modelspec.architecture": "stable-diffusion-xl-v1-base", "modelspec.prediction_type": "v" }),
        json!({ "ss_base_model_version": "sd_v1" }),
        json!({ "ss_base_model_version": "flux1", "modelspec.prediction_type": "epsilon" }),
    ]
}

/// What somebody may say that a model is.
fn corrections() -> [Correction; 4] {
    let said = |model_type, base| Correction { model_type, base, variant: None };
    [
        Correction::default(),
        said(Some(ModelType::Vae), Some(Base::Sdxl)),
        said(None, Some(Base::Sd21)),
        said(Some(ModelType::Unknown), None),
    ]
}

/// A header with its metadata before the entries, as writers put it, or after them.
fn claimed(entries: &str, claim: &Value, is_last: bool) -> String {
    match (claim, is_last) {
        (Value::Null, _) => format!("{{{entries}}}"),
        (claim, true) => format!("{{{entries},\"__metadata__\":{claim}}}"),
        (claim, false) => format!("{{\"__metadata__\":{claim},{entries}}}"),
    }
}

#[test]
fn a_listing_with_memory_says_what_each_file_says_alone() {
    let dir = TempDir::new().unwrap();
    let memo = Memo::default();
    let mut lister = Lister::new(&memo);
    let mut said = corrections().into_iter().cycle();
    for (name, case) in cases() {
        let (entries, bytes) = entries(&case);
        let entries = serde_json::to_string(&entries).unwrap();
        let entries = entries.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap();
        let [_, second, ..] = claims();
        let places = claims().into_iter().map(|claim| (claim, false)).chain([(second, true)]);
        for ((claim, is_last), correction) in places.zip(&mut said) {
            let header = claimed(entries, &claim, is_last);
            let path = raw(&dir.path().join("case.safetensors"), header.as_bytes(), bytes);
            let alone = inspect_as(&path, correction.clone()).unwrap().listing();
            assert!(alone.metadata.contains_key("facts"), "{name} is not read: {:?}", alone.reason);
            for time in ["new", "known"] {
                assert_eq!(
                    lister.list(&path, correction.clone()).unwrap(),
                    alone,
                    "{name}, {time}, {claim}, {correction:?}"
                );
                let is_kept = memo.find(Section::of(header.as_bytes()).key, bytes).is_some();
                assert_eq!(is_kept, !is_last, "{name}: metadata behind the entries is not told apart from them");
            }
        }
    }
}

#[test]
#[ignore = "writes the golden file; run it after a rule was changed on purpose"]
fn record_detection_evidence() {
    let all: BTreeMap<String, Value> = cases().into_iter().map(|(name, case)| (name, evidence(&look(&case)))).collect();
    let text = serde_json::to_string_pretty(&all).unwrap();
    fs::write(golden().join("detection/evidence.json"), format!("{text}\n")).unwrap();
}
