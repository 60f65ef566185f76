//! Walks over real folders: what is a model, what is passed over and why.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;
use tempfile::TempDir;

use super::{CandidateKind, Discovery, cached_repository, discover, discover_within};
use crate::{
    ErrorKind,
    testing::{document, model},
};

fn candidates(found: &Discovery) -> Vec<&str> {
    found.candidates.iter().map(|candidate| candidate.rel_path.as_str()).collect()
}

fn why<'d>(found: &'d Discovery, rel: &str) -> &'d str {
    found.skipped.iter().find(|(path, _)| path == rel).map_or("", |(_, why)| why)
}

#[test]
fn files_and_pipeline_folders_are_one_model_each() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("pipe/unet")).unwrap();
    fs::create_dir_all(root.path().join("loras/deep")).unwrap();
    document(&root.path().join("pipe/model_index.json"), &json!({ "_class_name": "X" }));
    model(&root.path().join("pipe/unet/diffusion_pytorch_model.safetensors"), &[("a", &[1])]);
    model(&root.path().join("loras/deep/l.safetensors"), &[("a", &[1])]);
    model(&root.path().join("B.SAFETENSORS"), &[("a", &[1])]);
    for name in ["old.ckpt", "notes.txt", "B.preview.png", "B.json", "big.gguf"] {
        fs::write(root.path().join(name), b"x").unwrap();
    }
    let found = discover(root.path()).unwrap();
    assert_eq!(candidates(&found), ["B.SAFETENSORS", "big.gguf", "loras/deep/l.safetensors", "old.ckpt", "pipe"]);
    assert_eq!(found.candidates[4].kind, CandidateKind::DiffusersFolder);
    assert!(found.candidates.iter().all(|candidate| candidate.path.is_absolute()));
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
}

#[test]
fn unfinished_hidden_and_special_entries_are_passed_over() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join(".hidden")).unwrap();
    model(&root.path().join(".hidden/h.safetensors"), &[("a", &[1])]);
    for name in ["a.safetensors.part", "b.tmp", "c.safetensors.aria2"] {
        fs::write(root.path().join(name), b"x").unwrap();
    }
    let fifo = root.path().join("f.safetensors");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let found = discover(root.path()).unwrap();
    assert!(found.candidates.is_empty(), "{:?}", found.candidates);
    assert_eq!(why(&found, ".hidden"), "hidden");
    assert_eq!(why(&found, "f.safetensors"), "not a regular file but a FIFO");
    assert!(why(&found, "a.safetensors.part").starts_with("unfinished"));
    assert!(why(&found, "c.safetensors.aria2").starts_with("unfinished"));
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let outside = TempDir::new().unwrap();
    model(&outside.path().join("secret.safetensors"), &[("a", &[1])]);
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("blobs")).unwrap();
    fs::create_dir_all(at("pipe/unet")).unwrap();
    fs::create_dir(at("loop")).unwrap();
    model(&at("blobs/0abc"), &[("a", &[1])]);
    model(&at("real.safetensors"), &[("a", &[1])]);
    symlink(at("blobs/0abc"), at("from-blob.safetensors")).unwrap();
    symlink(at("real.safetensors"), at("again.safetensors")).unwrap();
    symlink(outside.path().join("secret.safetensors"), at("escape.safetensors")).unwrap();
    symlink(outside.path(), at("escape-folder")).unwrap();
    symlink(root.path(), at("loop/up")).unwrap();
    symlink(at("nowhere"), at("dangling.safetensors")).unwrap();
    document(&at("pipe/model_index.json"), &json!({}));
    symlink(outside.path().join("secret.safetensors"), at("pipe/unet/model.safetensors")).unwrap();
    document(&outside.path().join("note.json"), &json!({ "description": "secret" }));
    symlink(outside.path().join("note.json"), at("real.civitai.info")).unwrap();
    document(&at("notes/inside.json"), &json!({ "description": "seen" }));
    symlink(at("notes/inside.json"), at("real.json")).unwrap();
    document(&at("cut/m.safetensors.index.json"), &json!({ "weight_map": { "a": "m-1.safetensors" } }));
    symlink(outside.path().join("secret.safetensors"), at("cut/m-1.safetensors")).unwrap();
    document(&at("loose/n.safetensors.index.json"), &json!({ "weight_map": { "a": "any.safetensors" } }));
    symlink(at("nowhere"), at("loose/n-1.safetensors")).unwrap();
    symlink(outside.path().join("secret.safetensors"), at("loose/any.safetensors")).unwrap();
    let found = discover(root.path()).unwrap();
    assert_eq!(candidates(&found), ["from-blob.safetensors", "loose/n.safetensors.index.json", "real.safetensors"]);
    let refused = crate::inspect(&at("loose/n.safetensors.index.json")).unwrap().reason.unwrap();
    assert!(refused.contains("a link to a shard of another name"), "{refused}");
    let real = found.candidates.iter().find(|candidate| candidate.rel_path == "real.safetensors").unwrap();
    assert_eq!(real.sidecars.iter().map(|sidecar| sidecar.path.clone()).collect::<Vec<_>>(), [at("real.json")]);
    assert!(why(&found, "cut/m.safetensors.index.json").contains("m-1.safetensors"));
    assert_eq!(why(&found, "escape.safetensors"), "a link that leaves the root");
    assert_eq!(why(&found, "escape-folder"), "a link that leaves the root");
    assert!(why(&found, "again.safetensors").starts_with("a link to real.safetensors"));
    assert!(why(&found, "dangling.safetensors").starts_with("a link that leads nowhere"));
    assert!(why(&found, "loop/up").starts_with("a link to"));
    assert!(why(&found, "pipe").contains("leaves the root"));
}

#[test]
fn shards_belong_to_their_index_and_companions_to_their_checkpoint() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    for name in ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "c.safetensors", "c.vae.safetensors"] {
        model(&at(name), &[("a", &[1])]);
    }
    model(&at("alone.vae.safetensors"), &[("a", &[1])]);
    document(&at("m.safetensors.index.json"), &json!({ "weight_map": {} }));
    let found = discover(root.path()).unwrap();
    assert_eq!(candidates(&found), ["alone.vae.safetensors", "c.safetensors", "m.safetensors.index.json"]);
    assert!(why(&found, "m-00001-of-00002.safetensors").starts_with("a shard"));
    assert!(why(&found, "c.vae.safetensors").starts_with("the VAE"));
}

#[test]
fn the_root_may_itself_be_a_model_and_must_be_a_folder() {
    let root = TempDir::new().unwrap();
    document(&root.path().join("model_index.json"), &json!({}));
    let found = discover(root.path()).unwrap();
    assert_eq!(candidates(&found), [""]);
    let missing = discover(&root.path().join("none")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Missing);
    assert!(discover(&root.path().join("model_index.json")).is_err());
}

#[test]
fn side_cars_belong_to_the_model_of_the_same_stem() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    for name in ["a.safetensors", "a.b.safetensors", "ab.ckpt"] {
        model(&at(name), &[("a", &[1])]);
    }
    for name in ["a.json", "a.civitai.info", "a.preview.png", "a.vae.pt", "a.b.json", "ab.png", "other.json"] {
        fs::write(at(name), b"{}").unwrap();
    }
    let found = discover(root.path()).unwrap();
    let beside = |rel: &str| {
        let candidate = found.candidates.iter().find(|candidate| candidate.rel_path == rel).unwrap();
        let names = candidate.sidecars.iter().map(|sidecar| sidecar.path.file_name().unwrap().to_str().unwrap());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(candidates(&found), ["a.b.safetensors", "a.safetensors", "ab.ckpt"]);
    assert_eq!(beside("a.safetensors"), ["a.civitai.info", "a.json", "a.preview.png", "a.vae.pt"]);
    assert_eq!(beside("a.b.safetensors"), ["a.b.json"]);
    assert_eq!(beside("ab.ckpt"), ["ab.png"]);
}

#[test]
fn a_component_folder_is_one_model_whatever_its_variants() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    document(&at("vae/config.json"), &json!({ "_class_name": "AutoencoderKL" }));
    for name in ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "extra.safetensors"]
    {
        model(&at("vae").join(name), &[("a", &[1])]);
    }
    document(&at("words/vocab.json"), &json!({ "a": 0 }));
    fs::write(at("words/merges.txt"), "a b").unwrap();
    let found = discover(root.path()).unwrap();
    assert_eq!(candidates(&found), ["vae", "vae/extra.safetensors", "words"]);
    let kinds: Vec<CandidateKind> = found.candidates.iter().map(|candidate| candidate.kind).collect();
    assert_eq!(kinds, [CandidateKind::ComponentFolder, CandidateKind::SingleFile, CandidateKind::TokenizerFolder]);
}

#[test]
fn links_may_lead_into_another_root_of_the_host() {
    let (root, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(other.path().join("deep")).unwrap();
    model(&other.path().join("deep/m.safetensors"), &[("a", &[1])]);
    symlink(other.path().join("deep"), root.path().join("linked")).unwrap();
    symlink(other.path().join("deep/m.safetensors"), root.path().join("one.safetensors")).unwrap();
    symlink(root.path(), other.path().join("deep/back")).unwrap();
    assert!(candidates(&discover(root.path()).unwrap()).is_empty());
    let found = discover_within(root.path(), &[other.path().to_owned()], &|| false).unwrap();
    assert_eq!(candidates(&found), ["linked/m.safetensors", "one.safetensors"]);
}

#[test]
fn a_walk_that_is_told_to_stop_says_so() {
    let root = TempDir::new().unwrap();
    model(&root.path().join("a.safetensors"), &[("a", &[1])]);
    let found = discover_within(root.path(), &[], &|| true).unwrap();
    assert!(found.stopped && found.candidates.is_empty());
}

#[test]
fn a_snapshot_of_a_download_cache_is_one_model_named_by_its_repository() {
    let root = TempDir::new().unwrap();
    let repo = root.path().join("models--some-org--some-vae");
    let snapshot = repo.join("snapshots/0123abcd");
    fs::create_dir_all(repo.join("blobs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    model(&repo.join("blobs/aa"), &[("a", &[1])]);
    fs::write(repo.join("blobs/bb"), b"{}").unwrap();
    symlink("../../blobs/aa", snapshot.join("diffusion_pytorch_model.safetensors")).unwrap();
    symlink("../../blobs/bb", snapshot.join("config.json")).unwrap();
    let found = discover(root.path()).unwrap();
    assert_eq!(candidates(&found), ["models--some-org--some-vae/snapshots/0123abcd"]);
    assert_eq!(cached_repository(&found.candidates[0].path).as_deref(), Some("some-vae"));
    assert_eq!(cached_repository(root.path()), None);
}
