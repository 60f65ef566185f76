//! Files whose bytes went bad (F25): what reads them fails and says so, nobody reads them again while that stands, other copies serve,
//! and a file that is well again is used again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Map, Value, json};
use shared::{
    error::{ErrorBody, ErrorCode},
    job::JobState,
    wire::{CorruptFile, JobDetail, ModelDetail, ValidationReport},
};

use crate::support::{
    big_model, bytes_move, device_is, failing_disk, flip, load, load_with, loaded, nothing_is_resident, small_model,
};

/// What is marked of a model on a host.
async fn marked(farm: &Farm, model: &str, host: &str) -> Vec<CorruptFile> {
    let locations = farm.model(model).await.locations;
    locations.into_iter().find(|at| at.host == host).expect("the host has the model").corrupt
}

async fn failed(farm: &Farm, model: &str, request: Value) -> (JobDetail, ErrorBody) {
    let job = load_with(farm, model, request).await;
    let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    let error = failed.job.error.clone().expect("an error");
    assert_eq!(error.code, ErrorCode::Corrupt, "{error:?}");
    (failed, error)
}

async fn unloaded(farm: &Farm, model: &str) {
    let job = farm.api.submit(&format!("/v1/models/{model}/unload"), json!({ "from_ram": true })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

async fn validated(farm: &Farm, model: &str, host: &str) -> ValidationReport {
    let request = json!({ "level": "hash", "target": format!("host:{host}") });
    let job = farm.api.submit(&format!("/v1/models/{model}/validate"), request).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.expect("a result")["validation"].as_str().expect("an id").to_owned();
    farm.api.get(&format!("/v1/models/{model}/validations/{id}")).await
}

async fn job_ends(farm: &Farm, body: Value, state: JobState) -> JobDetail {
    let job = farm.api.submit("/v1/jobs", body).await;
    farm.api.job_ended(job.id, state, LONG).await
}

/// G7 and what follows from it: the file is marked with the failure, shown, and not read again until its bytes are the registered ones.
#[tokio::test]
async fn g7_a_file_whose_bytes_went_bad_is_not_read_again_until_it_is_well() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    unloaded(&farm, "small").await;
    let registered = farm.model("small").await.components[0].digest.clone().expect("a load registers the digest");
    let path = farm.library().join("small.safetensors");
    flip(&path, 1 << 20);

    let (_, error) = failed(&farm, "small", json!({})).await;
    let hint = error.hint.clone().unwrap_or_default();
    assert!(error.message.contains("small.safetensors") && error.message.contains(&registered), "{error:?}");
    assert!(hint.contains("validate") && hint.contains("reidentify"), "{error:?}");
    nothing_is_resident(&farm, &agent, "a").await;
    let [mark] = marked(&farm, "small", "a").await.try_into().expect("one marked file");
    assert_eq!((mark.component.as_deref(), mark.expected.as_str()), (Some("vae"), registered.as_str()));
    assert!(mark.actual != registered && error.message.contains(&mark.actual), "{mark:?} {error:?}");
    assert_eq!(farm.model("small").await.summary.state, "available", "nothing that is known is forgotten");
    assert_eq!(agent.metric("modelyard_digest_mismatches_total", "").await, 1.0);
    wait_for("the gauge of corrupt files", SHORT, || async {
        let files = farm.scheduler.metric("modelyard_corrupt_files", "").await;
        if files == 1.0 { Ok(()) } else { Err(files.to_string()) }
    })
    .await;

    // no attempt of it: no byte is read
    let (second, error) = failed(&farm, "small", json!({ "priority": 1 })).await;
    assert!(farm.ledger.outcomes(second.job.id).await.is_empty(), "{second:?}");
    for told in [mark.actual.as_str(), &mark.expected, "small.safetensors"] {
        assert!(error.message.contains(told), "{told} in {error:?}");
    }
    assert!(error.hint.is_some_and(|hint| hint.contains("validate")), "{second:?}");

    let report = validated(&farm, "small", "a").await;
    let found = report.findings.iter().find(|finding| finding.code == "digest_mismatch").expect("a finding");
    assert_eq!((report.summary.verdict.as_str(), found.severity.as_str()), ("invalid", "error"));
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    flip(&path, 1 << 20);
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "ok");
    assert_eq!(marked(&farm, "small", "a").await, []);
    let done = loaded(&farm, "small").await;
    assert_eq!(done.job.result.expect("a result")["components"][0]["digest"], json!(registered));
    farm.assert_ledger_is_clean().await;
}

/// The mark is about one host's copy: another host's serves, also when nobody says where.
#[tokio::test]
async fn a_good_copy_on_another_host_serves() {
    let farm = Farm::start().await;
    let other = farm.library().with_file_name("other");
    small_model(&farm).write(&other, "small.safetensors");
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b").library(&other)).await;
    let on = |host: &str| json!({ "target": format!("device:{host}/cpu:0") });
    let first = load_with(&farm, "small", on("b")).await;
    farm.api.job_ended(first.id, JobState::Succeeded, SHORT).await;
    unloaded(&farm, "small").await;
    let path = farm.library().join("small.safetensors");
    flip(&path, 1 << 20);

    failed(&farm, "small", on("a")).await;
    assert_eq!((marked(&farm, "small", "a").await.len(), marked(&farm, "small", "b").await.len()), (1, 0));
    let done = loaded(&farm, "small").await;
    assert_eq!(done.job.result.expect("a result")["device"], "b/cpu:0");
    device_is(&farm, "a/cpu:0", "empty", |view| view.resident.is_empty()).await;

    // asked for the file alone, a hash job reads it again: it fails while the bytes are others, and takes the mark off when not
    let hash = json!({ "kind": "hash", "args": { "model": "small" }, "target": "host:a" });
    let refused = job_ends(&farm, hash.clone(), JobState::Failed).await.job.error.expect("an error");
    assert!(refused.code == ErrorCode::Corrupt && refused.message.contains("small.safetensors"), "{refused:?}");
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    flip(&path, 1 << 20);
    job_ends(&farm, hash, JobState::Succeeded).await;
    assert_eq!(marked(&farm, "small", "a").await, []);
    let there = load_with(&farm, "small", on("a")).await;
    farm.api.job_ended(there.id, JobState::Succeeded, SHORT).await;
}

/// Every model that the file is part of is meant; what is in memory stays in use; an operator's word and another file end it.
#[tokio::test]
async fn all_models_of_a_file_are_meant_and_what_is_in_memory_stays_in_use() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    fs::hard_link(&path, farm.library().join("again.safetensors")).expect("a link");
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "again").await;
    loaded(&farm, "small").await;
    flip(&path, 1 << 20);
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "invalid");
    assert_eq!((marked(&farm, "small", "a").await.len(), marked(&farm, "again", "a").await.len()), (1, 1));
    // the bytes in memory were compared when they were read
    assert_eq!(loaded(&farm, "again").await.job.result.expect("a result")["components"][0]["from"], "device");
    unloaded(&farm, "again").await;
    unloaded(&farm, "small").await;
    nothing_is_resident(&farm, &agent, "a").await;
    let (refused, _) = failed(&farm, "again", json!({})).await;
    assert!(farm.ledger.outcomes(refused.job.id).await.is_empty());

    let again = farm.api.submit("/v1/models/small/reidentify", json!({})).await;
    farm.api.job_ended(again.id, JobState::Succeeded, SHORT).await;
    assert_eq!(marked(&farm, "again", "a").await, []);
    let (read, _) = failed(&farm, "again", json!({ "priority": 1 })).await;
    assert_eq!(farm.ledger.outcomes(read.job.id).await, ["failed"], "it was read, and compared");
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);

    ModelFile::vae(mebibytes(2)).write(&farm.library(), "small.safetensors");
    job_ends(&farm, json!({ "kind": "scan", "target": "host:a" }), JobState::Succeeded).await;
    assert_eq!(marked(&farm, "small", "a").await, [], "it is another file");
    assert_eq!(marked(&farm, "again", "a").await.len(), 1, "it is the same file");
    loaded(&farm, "small").await;
    let shared = loaded(&farm, "again").await.job.result.expect("a result");
    assert_eq!(shared["components"][0]["from"], "device", "the good file's bytes are its component's, too");
}

/// Hashing in the background registers nothing from a file that is marked, and does not read it each time.
#[tokio::test]
async fn nothing_is_registered_from_a_file_that_is_marked() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    unloaded(&farm, "small").await;
    flip(&path, 1 << 20);
    // it has no hashes yet; reading it for them finds the other bytes
    let all = json!({ "kind": "hash", "target": "host:a" });
    let first = job_ends(&farm, all.clone(), JobState::Succeeded).await.job.result.expect("a result");
    assert_eq!(first["refused"].as_array().map(Vec::len), Some(1), "{first}");
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    let view = farm.model("small").await;
    assert!(view.hashes.is_none() && view.digest.is_none(), "{view:?}");
    assert_eq!(farm.ledger.number("select count(*) from file_hashes").await, 0);
    // another name of it is hashed no more than the first
    fs::hard_link(&path, farm.library().join("again.safetensors")).expect("a link");
    job_ends(&farm, json!({ "kind": "scan", "target": "host:a" }), JobState::Succeeded).await;
    let second = job_ends(&farm, all, JobState::Succeeded).await.job.result.expect("a result");
    assert_eq!((&second["models"], &second["bytes"]), (&json!(0), &json!(0)), "{second}");
    assert!(farm.model("again").await.components[0].digest.is_none());

    // asked for, it is read; but nothing is registered that it could be compared with, so it does not become what is
    let hash = json!({ "kind": "hash", "args": { "model": "again" }, "target": "host:a" });
    let refused = job_ends(&farm, hash.clone(), JobState::Failed).await.job.error.expect("an error");
    assert!(refused.message.contains("again.safetensors") && refused.message.contains("its mark stays"), "{refused:?}");
    for _ in 0..2 {
        validated(&farm, "again", "a").await;
        assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    }
    assert_eq!(farm.ledger.number("select count(*) from file_hashes").await, 0);
    assert!(farm.model("again").await.components[0].digest.is_none());
    // an operator's word for one of the models is no word for the other
    let word = farm.api.submit("/v1/models/small/reidentify", json!({})).await;
    let told = farm.api.job_ended(word.id, JobState::Succeeded, SHORT).await.job.result.expect("a result");
    assert_eq!((&told["marks"]["taken_off"], &told["marks"]["left"]), (&json!(0), &json!(1)), "{told}");
    assert_eq!(marked(&farm, "again", "a").await.len(), 1);
    // well again, it is compared as the one and registered as the other
    flip(&path, 1 << 20);
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "ok");
    job_ends(&farm, hash, JobState::Succeeded).await;
    let (small, again) = (farm.model("small").await, farm.model("again").await);
    assert!(again.components[0].digest.is_some() && small.components[0].digest == again.components[0].digest);
}

/// A hash job takes over the digest of the same file under another name. The file goes bad before the job ends: what was not read takes no
/// mark off.
#[tokio::test]
async fn a_digest_that_was_taken_over_takes_no_mark_off() {
    let farm = Farm::start().await;
    small_model(&farm);
    // small ones are hashed first
    ModelFile::vae(mebibytes(4)).write(&farm.path("behind"), "last.safetensors");
    let Some(disk) = failing_disk(&farm) else { return };
    let _agent = farm.agent_with_library(farm.agent("a").root("far", farm.path("mounted"))).await;
    let all = json!({ "kind": "hash", "target": "host:a" });
    let hash = json!({ "kind": "hash", "args": { "model": "small" }, "target": "host:a" });
    job_ends(&farm, hash, JobState::Succeeded).await;
    let path = farm.library().join("small.safetensors");
    fs::hard_link(&path, farm.library().join("again.safetensors")).expect("a link");
    job_ends(&farm, json!({ "kind": "scan", "target": "host:a" }), JobState::Succeeded).await;
    disk.hang();
    let job = farm.api.submit("/v1/jobs", all).await;
    wait_for("a read that hangs", SHORT, || async { if disk.held() > 0 { Ok(()) } else { Err("none".to_owned()) } })
        .await;
    flip(&path, 1 << 20);
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "invalid");
    let before = marked(&farm, "small", "a").await;
    assert_eq!(before.len(), 2, "the component's and the file's: {before:?}");
    disk.answer();
    let told = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await.job.result.expect("a result");
    assert!(told["still_marked"][0].as_str().is_some_and(|path| path.contains("again.safetensors")), "{told}");
    assert_eq!(marked(&farm, "small", "a").await, before);
    assert!(farm.model("last").await.digest.is_some(), "the rest is hashed");
}

/// Components of one file have a mark each, and the file counts once.
#[tokio::test]
async fn components_of_one_file_are_marked_each() {
    let farm = Farm::start().await;
    ModelFile::checkpoint(mebibytes(2), mebibytes(1), mebibytes(1)).write(&farm.library(), "whole.safetensors");
    let path = farm.library().join("whole.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let hash = json!({ "kind": "hash", "args": { "model": "whole" }, "target": "host:a" });
    job_ends(&farm, hash, JobState::Succeeded).await;
    let length = fs::metadata(&path).expect("the file").len();
    let (first, last) = (1 << 20, length - 8);
    flip(&path, first);
    flip(&path, last);
    assert_eq!(validated(&farm, "whole", "a").await.summary.verdict, "invalid");
    let found = async || {
        let mut found: Vec<_> = marked(&farm, "whole", "a").await.into_iter().map(|mark| mark.component).collect();
        found.sort();
        found
    };
    let (none, unet, text) = (None, Some("unet".to_owned()), Some("text_encoder".to_owned()));
    assert_eq!(found().await, [none.clone(), text.clone(), unet]);
    wait_for("the gauge of corrupt files", SHORT, || async {
        let files = farm.scheduler.metric("modelyard_corrupt_files", "").await;
        if files == 1.0 { Ok(()) } else { Err(files.to_string()) }
    })
    .await;
    flip(&path, first);
    assert_eq!(validated(&farm, "whole", "a").await.summary.verdict, "invalid");
    assert_eq!(found().await, [none, text], "the other is still bad");
    flip(&path, last);
    assert_eq!(validated(&farm, "whole", "a").await.summary.verdict, "ok");
    assert_eq!(found().await, []);
}

/// Writes a VAE into this folder as two files with an index; the second one's path.
fn write_shards(folder: &Path) -> PathBuf {
    let whole = ModelFile::vae(mebibytes(2)).write(&folder.join("parts"), "whole.part");
    let bytes = fs::read(&whole).expect("the file");
    fs::remove_dir_all(folder.join("parts")).expect("a removal");
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("a length"))).expect("a header");
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let data = &bytes[8 + length..];
    let (mut shards, mut places) = ([(Map::new(), Vec::new()), (Map::new(), Vec::new())], Map::new());
    let name = |shard: usize| format!("split-{:05}-of-00002.safetensors", shard + 1);
    for (number, (tensor, mut entry)) in header.into_iter().filter(|(key, _)| key != "__metadata__").enumerate() {
        let at =
            |end: usize| usize::try_from(entry["data_offsets"][end].as_u64().expect("an offset")).expect("an offset");
        let (header, stored) = &mut shards[number % 2];
        let begin = stored.len();
        stored.extend_from_slice(&data[at(0)..at(1)]);
        entry["data_offsets"] = json!([begin, stored.len()]);
        places.insert(tensor.clone(), name(number % 2).into());
        header.insert(tensor, entry);
    }
    for (number, (header, data)) in shards.into_iter().enumerate() {
        let header = Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(folder.join(name(number)), file).expect("a shard");
    }
    let index = json!({ "metadata": {}, "weight_map": places }).to_string();
    fs::write(folder.join("split.safetensors.index.json"), index).expect("an index");
    folder.join(name(1))
}

/// Another copy of one of the shards in its place, with one bit flipped where that is said.
async fn replaced_by(farm: &Farm, (shard, host): (&Path, &str), flipped: Option<u64>) {
    let folder = farm.path("new");
    fs::create_dir(&folder).expect("a folder");
    write_shards(&folder);
    let new = folder.join(shard.file_name().expect("a name"));
    flipped.iter().for_each(|at| flip(&new, *at));
    fs::remove_file(shard).expect("a removal");
    fs::rename(new, shard).expect("another file in its place");
    fs::remove_dir_all(folder).expect("a removal");
    job_ends(farm, json!({ "kind": "scan", "target": format!("host:{host}") }), JobState::Succeeded).await;
}

/// A good copy of one of the shards in its place.
async fn replaced(farm: &Farm, shard: &Path) {
    replaced_by(farm, (shard, "a"), None).await;
}

/// Of a component in several files it is not known at first which is bad. The recorded hashes tell; and where the bad one is replaced, the
/// digest that was registered before tells that the rest is well.
#[tokio::test]
async fn a_model_of_several_files_is_well_once_the_bad_one_is_replaced() {
    let farm = Farm::start().await;
    let second = write_shards(&farm.library());
    let last = fs::metadata(&second).expect("the file").len() - 1;
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "split").await;
    unloaded(&farm, "split").await;
    flip(&second, last);
    failed(&farm, "split", json!({})).await;
    assert_eq!(marked(&farm, "split", "a").await.len(), 2);
    replaced(&farm, &second).await;
    let marks = marked(&farm, "split", "a").await;
    assert!(marks.len() == 1 && marks[0].file.contains("00001-of"), "{marks:?}");
    assert_eq!(validated(&farm, "split", "a").await.summary.verdict, "ok");
    assert_eq!(marked(&farm, "split", "a").await, []);
    loaded(&farm, "split").await;
    unloaded(&farm, "split").await;

    let hash = json!({ "kind": "hash", "args": { "model": "split" }, "target": "host:a" });
    job_ends(&farm, hash, JobState::Succeeded).await;
    flip(&second, last);
    failed(&farm, "split", json!({ "priority": 1 })).await;
    assert_eq!(marked(&farm, "split", "a").await.len(), 2);
    validated(&farm, "split", "a").await;
    let marks = marked(&farm, "split", "a").await;
    assert!(marks.len() == 2 && marks.iter().all(|mark| mark.file.contains("00002-of")), "{marks:?}");
    flip(&second, last);
    assert_eq!(validated(&farm, "split", "a").await.summary.verdict, "ok");
    assert_eq!(marked(&farm, "split", "a").await, []);

    // they tell as well where the component is another one by now, though another model has the former
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "whole.safetensors");
    job_ends(&farm, json!({ "kind": "scan", "target": "host:a" }), JobState::Succeeded).await;
    loaded(&farm, "whole").await;
    unloaded(&farm, "whole").await;
    let former = |model: &ModelDetail| model.components[0].digest.clone();
    assert_eq!(former(&farm.model("whole").await), former(&farm.model("split").await));
    flip(&second, last);
    failed(&farm, "split", json!({ "priority": 2 })).await;
    replaced_by(&farm, (&second, "a"), Some(last)).await;
    assert_eq!(marked(&farm, "split", "a").await.len(), 1);
    validated(&farm, "split", "a").await;
    assert_eq!(marked(&farm, "split", "a").await, []);
}

/// Another version comes to both hosts, and one of them registers it: what the other reads of its files is what is registered by then, so a mark
/// from before says nothing any more.
#[tokio::test]
async fn a_mark_ends_where_what_is_read_is_registered_by_then() {
    let farm = Farm::start().await;
    let other = farm.library().with_file_name("other");
    fs::create_dir_all(&other).expect("a folder");
    let shards = [("a", write_shards(&farm.library())), ("b", write_shards(&other))];
    let file = ModelFile::vae(mebibytes(3));
    let single = [&farm.library(), &other].map(|library| file.write(library, "single.safetensors"));
    let last = fs::metadata(&shards[0].1).expect("the file").len() - 1;
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b").library(&other)).await;
    let on = |host: &str, priority: i32| json!({ "target": format!("device:{host}/cpu:0"), "priority": priority });
    let load_there = async |model: &str, host: &str, priority| {
        let job = load_with(&farm, model, on(host, priority)).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    };
    let versions = [("single", &single[0], 1 << 20), ("split", &shards[0].1, last)];
    for (model, bad, at) in versions {
        load_there(model, "b", 1).await;
        unloaded(&farm, model).await;
        flip(bad, at);
        failed(&farm, model, on("a", 2)).await;
        assert!(!marked(&farm, model, "a").await.is_empty(), "{model}");
    }
    // the single file is what the new version is, as it lies there; of the others one is replaced on both hosts
    flip(&file.write(&other, "single.safetensors"), 1 << 20);
    for (host, shard) in &shards {
        replaced_by(&farm, (shard, host), Some(last)).await;
    }
    for (model, _, _) in versions {
        load_there(model, "b", 3).await;
        unloaded(&farm, model).await;
        assert_eq!(marked(&farm, model, "a").await.len(), 1, "{model}");
        assert_eq!(validated(&farm, model, "a").await.summary.verdict, "ok");
        assert_eq!(marked(&farm, model, "a").await, [], "{model}");
        load_there(model, "a", 4).await;
    }
    farm.assert_ledger_is_clean().await;
}

/// Where a good one of several files is replaced, the component is another one without a digest. The bad one's bytes do not become it.
#[tokio::test]
async fn a_bad_file_stays_marked_when_another_file_of_its_component_is_replaced() {
    let farm = Farm::start().await;
    let second = write_shards(&farm.library());
    let last = fs::metadata(&second).expect("the file").len() - 1;
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let registered = loaded(&farm, "split").await.job.result.expect("a result")["components"][0]["digest"].clone();
    unloaded(&farm, "split").await;
    flip(&second, last);
    failed(&farm, "split", json!({})).await;
    replaced(&farm, &second.with_file_name("split-00001-of-00002.safetensors")).await;
    let is_marked = async || {
        let marks = marked(&farm, "split", "a").await;
        assert!(marks.len() == 1 && marks[0].file.contains("00002-of"), "{marks:?}");
        assert_eq!(farm.model("split").await.components[0].digest, None);
    };
    is_marked().await;
    let (refused, _) = failed(&farm, "split", json!({ "priority": 1 })).await;
    assert!(farm.ledger.outcomes(refused.job.id).await.is_empty(), "it was read: {refused:?}");
    validated(&farm, "split", "a").await;
    is_marked().await;
    let hash = json!({ "kind": "hash", "args": { "model": "split" }, "target": "host:a" });
    let told = job_ends(&farm, hash.clone(), JobState::Failed).await.job.error.expect("an error");
    assert!(told.message.contains("its mark stays"), "{told:?}");
    is_marked().await;

    flip(&second, last);
    job_ends(&farm, hash, JobState::Succeeded).await;
    assert_eq!(marked(&farm, "split", "a").await, []);
    assert_eq!(json!(farm.model("split").await.components[0].digest), registered);
    loaded(&farm, "split").await;
    farm.assert_ledger_is_clean().await;
}

/// What was placed before its file was marked goes back unread, and to the copy that is good.
#[tokio::test]
async fn work_that_waits_at_a_copy_that_goes_bad_goes_to_a_good_one() {
    let farm = Farm::start().await;
    let other = farm.library().with_file_name("other");
    small_model(&farm).write(&other, "small.safetensors");
    big_model(&farm, 96);
    let _a = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    loaded(&farm, "small").await;
    unloaded(&farm, "small").await;
    flip(&farm.library().join("small.safetensors"), 1 << 20);
    let big = load(&farm, "big").await;
    bytes_move(&farm, &big).await;
    let waits = load_with(&farm, "small", json!({ "priority": 1 })).await;
    farm.api.job_is(waits.id, "is placed", SHORT, |seen| seen.job.state == JobState::Placed).await;
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "invalid");
    let _b = farm.agent_with_library(farm.agent("b").library(&other)).await;
    farm.scanned("b").await;
    farm.api.cancel(big.id).await;
    let done = farm.api.job_ended(waits.id, JobState::Succeeded, LONG).await;
    assert_eq!((done.job.host.as_deref(), done.job.attempt), (Some("b"), 1), "{done:?}");
    assert_eq!(farm.ledger.outcomes(waits.id).await, ["handed_back", "succeeded"]);
}
