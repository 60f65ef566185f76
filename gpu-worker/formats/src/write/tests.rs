//! Side-cars come back as they were written; copies have the same tensors; nothing else is touched.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    inspect,
    inspection::FileFacts,
    metadata, safetensors,
    sidecar::{Sidecar, SidecarKind},
};

/// A file with two tensors and metadata; its path.
fn model(dir: &Path) -> PathBuf {
    let header = json!({
        "__metadata__": { "format": "pt", "modelspec.title": "old", "ss_steps": "7" },
        "b": { "dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12] },
        "a": { "dtype": "F32", "shape": [1], "data_offsets": [12, 16] },
    });
    let text = header.to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.extend(0..16u8);
    let path = dir.join("m.safetensors");
    fs::write(&path, bytes).unwrap();
    path
}

fn facts(path: &Path) -> FileFacts {
    safetensors::read(path, "").unwrap().file
}

fn copy(job: &str) -> Copy {
    let metadata = BTreeMap::from([("modelspec.title".to_owned(), "new \"ü\"".to_owned())]);
    Copy { metadata, payload_sha256: None, job: job.to_owned(), overwrite: false }
}

fn go(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_copy_has_the_same_tensors_and_more_metadata() {
    let dir = TempDir::new().unwrap();
    let from = model(dir.path());
    let before = fs::read(&from).unwrap();
    let place = Place::open(dir.path(), "c.safetensors").unwrap();
    let made = copy("j1").make(&from, &facts(&from), &place, &mut go).unwrap();
    assert_eq!(fs::read(&from).unwrap(), before);
    let (old, new) = (safetensors::read(&from, "").unwrap(), safetensors::read(&place.path(), "").unwrap());
    assert_eq!((new.data_begin % 8, new.file.size), (0, made.bytes));
    let tensors = |header: &safetensors::Header| -> Vec<_> {
        let at = |tensor: &crate::TensorFacts| (tensor.begin - header.data_begin, tensor.end - header.data_begin);
        header.tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone(), at(t))).collect()
    };
    assert_eq!(tensors(&old), tensors(&new));
    let payload = |path: &Path, header: &safetensors::Header| {
        fs::read(path).unwrap()[usize::try_from(header.data_begin).unwrap()..].to_vec()
    };
    assert_eq!(payload(&from, &old), payload(&place.path(), &new));
    assert_eq!((new.metadata["modelspec.title"].as_str(), new.metadata["ss_steps"].as_str()), ("new \"ü\"", "7"));
    assert_eq!(copy("j1").bytes(&from).unwrap(), made.bytes);
    assert_eq!(names(dir.path()), ["c.safetensors", "m.safetensors"]);

    // done already for the same job; in the way of another; replaced where that is allowed
    let again = copy("j1").make(&from, &facts(&from), &place, &mut go).unwrap();
    assert_eq!(again.payload_sha256, None);
    let refused = copy("j2").make(&from, &facts(&from), &place, &mut go);
    assert!(matches!(refused, Err(WriteError::Exists { .. })), "{refused:?}");
    let replacing = Copy { overwrite: true, payload_sha256: made.payload_sha256.clone(), ..copy("j2") };
    assert_eq!(replacing.make(&from, &facts(&from), &place, &mut go).unwrap().payload_sha256, made.payload_sha256);
    assert_eq!(safetensors::read(&place.path(), "").unwrap().metadata[JOB_KEY], "j2");
}

/// Overwriting is allowed for what was there when the job began and is a job's, whatever comes in the hours after.
#[test]
fn what_somebody_puts_there_while_a_copy_is_made_stays() {
    let dir = TempDir::new().unwrap();
    let from = model(dir.path());
    let place = Place::open(dir.path(), "c.safetensors").unwrap();
    let over = |job: &str| Copy { overwrite: true, ..copy(job) };
    let mut others_come = |_: u64| {
        fs::copy(&from, place.path()).unwrap();
        ControlFlow::Continue(())
    };
    let free = over("j1").make(&from, &facts(&from), &place, &mut others_come);
    assert!(matches!(free, Err(WriteError::Exists { .. })), "{free:?}");
    assert_eq!(fs::read(place.path()).unwrap(), fs::read(&from).unwrap());
    fs::remove_file(place.path()).unwrap();

    copy("j1").make(&from, &facts(&from), &place, &mut go).unwrap();
    let ours = over("j2").make(&from, &facts(&from), &place, &mut others_come);
    assert!(matches!(ours, Err(WriteError::NotOurs { .. })), "{ours:?}");
    assert_eq!(fs::read(place.path()).unwrap(), fs::read(&from).unwrap());
    assert_eq!(names(dir.path()), ["c.safetensors", "m.safetensors"]);
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let from = model(dir.path());
    let place = Place::open(dir.path(), "c.safetensors").unwrap();
    let stopped = copy("j").make(&from, &facts(&from), &place, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(WriteError::Stopped)), "{stopped:?}");
    let other = Copy { payload_sha256: Some("00".repeat(32)), ..copy("j") };
    let other = other.make(&from, &facts(&from), &place, &mut go);
    assert!(matches!(other, Err(WriteError::OtherBytes { .. })), "{other:?}");
    let replaced = FileFacts { mtime_ns: 1, ..facts(&from) };
    assert!(copy("j").make(&from, &replaced, &place, &mut go).is_err());
    // a killed process left a draft
    fs::write(dir.path().join(".modelyard-c.safetensors.1-0.part"), "rest").unwrap();
    copy("j").make(&from, &facts(&from), &place, &mut go).unwrap();
    assert_eq!(names(dir.path()), ["c.safetensors", "m.safetensors"]);
}

#[test]
fn nothing_is_written_outside_of_the_root_or_over_what_others_wrote() {
    let dir = TempDir::new().unwrap();
    let (root, out) = (dir.path().join("root"), dir.path().join("out"));
    fs::create_dir_all(root.join("in/deep")).unwrap();
    fs::create_dir_all(&out).unwrap();
    symlink(&out, root.join("link")).unwrap();
    symlink("in/deep", root.join("short")).unwrap();
    for below in ["", "/etc/x.json", "../x.json", "in/../../x.json", "in/", ".x.json", "in/.h/x.json", "a\0.json"] {
        assert!(matches!(Place::open(&root, below), Err(WriteError::BadPath { .. })), "{below:?}");
    }
    for below in ["link/x.json", "none/x.json"] {
        assert!(matches!(Place::open(&root, below), Err(WriteError::NoFolder { .. })), "{below:?}");
    }
    let document = |job: &str| Document {
        schema: SCHEMA.to_owned(),
        written: Some(Written { job: job.to_owned(), version: 1 }),
        ..Document::default()
    };
    sidecar(&Place::open(&root, "short/x.json").unwrap(), &document("j"), false).unwrap();
    assert_eq!(names(&root.join("in/deep")), ["x.json"]);

    // somebody else's document, and a link with the name, stay whatever is asked
    fs::write(root.join("theirs.json"), "{\"notes\":\"n\"}").unwrap();
    symlink(out.join("x.json"), root.join("dangling.json")).unwrap();
    for name in ["theirs.json", "dangling.json"] {
        let place = Place::open(&root, name).unwrap();
        assert!(matches!(sidecar(&place, &document("j"), false), Err(WriteError::Exists { .. })), "{name}");
        assert!(matches!(sidecar(&place, &document("j"), true), Err(WriteError::NotOurs { .. })), "{name}");
    }
    assert_eq!(fs::read_to_string(root.join("theirs.json")).unwrap(), "{\"notes\":\"n\"}");
    assert!(names(&out).is_empty());
    let original = model(&root);
    let place = Place::open(&root, "m.safetensors").unwrap();
    assert!(matches!(place.must_be_none_of(&[facts(&original)]), Err(WriteError::IsSource { .. })));
    // nor is it the folder of a file, of parts of it or of whole pipelines
    fs::create_dir_all(root.join("pipeline/unet")).unwrap();
    let part = root.join("pipeline/unet/m.safetensors");
    fs::copy(&original, &part).unwrap();
    let folder = |name: &str| Place::open(&root, name).unwrap().must_be_none_of(&[facts(&part)]);
    assert!(matches!(folder("pipeline"), Err(WriteError::IsSource { .. })));
    assert!(folder("in").is_ok() && folder("none").is_ok());
}

/// What a scan would say of `m.safetensors` in `dir` with the side-car `m.json`.
fn read_back(dir: &Path) -> metadata::Extracted {
    let inspection = inspect(&model(dir)).unwrap();
    let sidecars = [Sidecar { kind: SidecarKind::Notes, path: dir.join("m.json") }];
    metadata::extract(&inspection, &sidecars)
}

#[test]
fn a_side_car_is_read_back() {
    let dir = TempDir::new().unwrap();
    let written = Document {
        schema: SCHEMA.to_owned(),
        written: Some(Written { job: "j".to_owned(), version: 3 }),
        description: Some("about <b>it</b>".to_owned()),
        tags: vec!["one".to_owned(), "two, three".to_owned()],
        trigger_words: vec!["w".to_owned()],
        notes: Some("mine".to_owned()),
        rating: Some(4),
        license: Some("mit".to_owned()),
        extra: json!({ "a": [1, { "b": null }] }).as_object().unwrap().clone(),
        base: Some("sdxl".to_owned()),
        prediction: Some("v_prediction".to_owned()),
        hashes: Some(Hashes { sha256: Some("ab".repeat(32)), ..Hashes::default() }),
        ..Document::default()
    };
    sidecar(&Place::open(dir.path(), "m.json").unwrap(), &written, false).unwrap();
    let found = read_back(dir.path());
    assert_eq!(found.problems, [] as [&str; 0]);
    assert_eq!(
        (&found.description, &found.notes, &found.license),
        (&written.description, &written.notes, &written.license)
    );
    assert_eq!((&found.tags, &found.trigger_words, found.rating), (&written.tags, &written.trigger_words, Some(4)));
    assert_eq!(found.extra.as_ref().and_then(|extra| extra.as_object()), Some(&written.extra));
    let base = found.base_claim.and_then(|claim| claim.base);
    assert_eq!((base, found.prediction_claim.as_deref()), (Some(crate::Base::Sdxl), Some("v_prediction")));
    assert_eq!((found.sha256_claim, found.sources["notes"].as_str()), (Some("ab".repeat(32)), "modelyard"));
    assert_eq!(found.title.as_deref(), Some("old"), "what the file says of itself comes first");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_metadata_makes_a_header_that_is_read_back(fields in prop::collection::btree_map("\\PC{1,20}", "\\PC{0,200}", 0..8)) {
        let dir = TempDir::new().unwrap();
        let from = model(dir.path());
        let place = Place::open(dir.path(), "c.safetensors").unwrap();
        let copy = Copy { metadata: fields.clone(), ..copy("j") };
        copy.make(&from, &facts(&from), &place, &mut go).unwrap();
        let read = safetensors::read(&place.path(), "").unwrap();
        for (key, value) in fields.iter().filter(|(key, _)| *key != JOB_KEY) {
            prop_assert_eq!(read.metadata.get(key), Some(value));
        }
        let bytes = fs::read(place.path()).unwrap();
        prop_assert!(::safetensors::SafeTensors::deserialize(&bytes).is_ok(), "the reference reader takes it");
    }
}

#[test]
fn a_new_file_has_its_tensors_at_multiples_of_their_width_and_says_what_it_holds() {
    let dir = TempDir::new().unwrap();
    let place = Place::open(dir.path(), "new.safetensors").unwrap();
    let (narrow, wide) = ([1_u8, 2, 3, 4, 5, 6], 7.5_f32.to_le_bytes());
    let file = |job: &str, overwrite| NewFile {
        metadata: BTreeMap::from([("modelspec.title".to_owned(), "made".to_owned())]),
        tensors: vec![
            NewTensor { name: "a", dtype: crate::Dtype::F16, shape: vec![3], bytes: &narrow },
            NewTensor { name: "b.alpha", dtype: crate::Dtype::F32, shape: vec![], bytes: &wide },
        ],
        job: job.to_owned(),
        overwrite,
    };
    let made = file("j1", false).make(&place, &mut go).unwrap();
    let header = safetensors::read(&place.path(), "").unwrap();
    assert_eq!((header.data_begin % 8, header.file.size), (0, made.bytes));
    let at = |name: &str| header.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!((at("b.alpha").begin - header.data_begin, at("a").begin - header.data_begin), (0, 4));
    let bytes = fs::read(place.path()).unwrap();
    assert_eq!(bytes[usize::try_from(at("a").begin).unwrap()..], narrow);
    assert_eq!(header.metadata["modelspec.title"], "made");
    assert_eq!(header.metadata["modelspec.hash_sha256"], format!("0x{}", made.payload_sha256.clone().unwrap()));
    // the same job's own work is done; another job's is in the way unless it may be replaced
    assert_eq!(file("j1", false).make(&place, &mut go).unwrap().payload_sha256, None);
    assert!(matches!(file("j2", false).make(&place, &mut go), Err(WriteError::Exists { .. })));
    assert!(file("j2", true).make(&place, &mut go).unwrap().payload_sha256.is_some());
    assert!(matches!(file("j3", true).make(&place, &mut |_| ControlFlow::Break(())), Err(WriteError::Stopped)));
    assert_eq!(names(dir.path()), ["new.safetensors"]);
}
