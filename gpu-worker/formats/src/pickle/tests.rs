//! Golden checkpoints that torch wrote, and hostile ones that only these tests write.

mod containers;
mod hostile;
mod large;
mod write;

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::read;
use crate::{Format, inspect, read_tensor};

#[derive(Debug, Deserialize)]
struct Expected {
    nested: Vec<String>,
    tensors: BTreeMap<String, ExpectedTensor>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct ExpectedTensor {
    dtype: String,
    shape: Vec<u64>,
    sha256: String,
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/pickles")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_golden_checkpoint_is_read_as_torch_reads_it() {
    let text = std::fs::read_to_string(golden().join("expected.json")).unwrap();
    let cases: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 15);
    for (name, expected) in cases {
        let path = golden().join(&name);
        let found = read(&path).unwrap_or_else(|error| panic!("{name}: {}", error.full_text()));
        assert_eq!(found.extra.nested, expected.nested, "{name}");
        assert_eq!(found.format, if name.contains(".zip.") { Format::TorchZip } else { Format::Pickle }, "{name}");
        let file = File::open(&path).unwrap();
        let mut out = Vec::new();
        let mut tensors = BTreeMap::new();
        for tensor in &found.tensors {
            read_tensor(&file, tensor, &mut out).unwrap();
            let sha256 = hex(&Sha256::digest(&out));
            let dtype = tensor.dtype.as_str().to_owned();
            tensors.insert(tensor.name.clone(), ExpectedTensor { dtype, shape: tensor.shape.clone(), sha256 });
        }
        assert_eq!(tensors, expected.tensors, "{name}");
    }
}

#[test]
fn what_stands_around_the_weights_is_told() {
    let lightning = read(&golden().join("lightning.zip.pt")).unwrap().extra;
    assert!(lightning.has_ema && lightning.ignored.iter().any(|name| name == "optimizer_states"));
    assert_eq!(lightning.nested, ["state_dict"]);
    let ema = read(&golden().join("ema.legacy.pt")).unwrap().extra;
    assert!(ema.has_ema);
    assert!(read(&golden().join("module.zip.pt")).unwrap().extra.stripped_module);
}

#[test]
fn tied_tensors_share_bytes_and_views_have_strides() {
    let views = read(&golden().join("views.zip.pt")).unwrap().tensors;
    let of = |name: &str| views.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!((of("whole").begin, of("whole").end), (of("tied").begin, of("tied").end));
    assert_eq!(of("row").strides, None);
    assert_eq!(of("transposed").strides, Some(vec![1, 4]));
    assert_eq!(of("expanded").bytes(), 60);
}

#[test]
fn a_checkpoint_is_recognised_by_the_rules_of_safetensors() {
    let dir = tempfile::TempDir::new().unwrap();
    for (from, to) in [("lightning.zip.pt", "a.ckpt"), ("lightning.legacy.pt", "renamed.safetensors")] {
        let path = dir.path().join(to);
        std::fs::copy(golden().join(from), &path).unwrap();
        let found = inspect(&path).unwrap();
        assert_ne!(found.format, Format::Safetensors);
        assert!(found.metadata.contains_key("pickle"), "{to}: {:?}", found.reason);
        assert!(found.evidence.iter().any(|seen| seen.rule == "pickle.nested"), "{to}");
    }
}
