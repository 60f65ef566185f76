//! Folders with several variants of their weights: all are listed, the operator chooses, and every later operation reads what was chosen.
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt};

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    job::JobState,
    wire::{ConvertResult, ModelDetail, ValidationReport, WhyRead},
};

use crate::{
    command_line::modelyard,
    corrections::{correct, settled},
    engine::make_models_of,
    support::{failing_disk, load_with, loaded},
};

const FOLDER: &str = "sd15-tiny-diffusers";
const PLAIN: &str = "diffusion_pytorch_model.safetensors";

/// A folder in 32 bits whose UNet and VAE are there in 16 bits as well, and one in 16 bits alone, named `half`.
fn library(farm: &Farm) {
    make_models_of(farm, "sd15", "diffusers", "fp16");
    let (folder, half) = (farm.library().join(FOLDER), farm.library().join("half"));
    fs::rename(&folder, &half).unwrap();
    make_models_of(farm, "sd15", "diffusers", "fp32");
    for part in ["unet", "vae"] {
        let to = folder.join(part).join("diffusion_pytorch_model.fp16.safetensors");
        fs::copy(half.join(part).join(PLAIN), to).unwrap();
    }
}

/// Dtype and bytes of each component.
fn weights(model: &ModelDetail) -> BTreeMap<String, (String, u64)> {
    model.components.iter().map(|part| (part.kind.clone(), (part.dtype.clone(), part.bytes))).collect()
}

/// The digests of a model's components, once all are known.
async fn digests(farm: &Farm, model: &str) -> BTreeMap<String, String> {
    wait_for(&format!("the digests of {model}"), LONG, || async {
        let parts = farm.model(model).await.components;
        let known = parts.into_iter().map(|part| Some((part.kind, part.digest?))).collect::<Option<BTreeMap<_, _>>>();
        known.filter(|known| !known.is_empty()).ok_or_else(|| "not yet".to_owned())
    })
    .await
}

/// What is read of each component, and why.
fn read(model: &ModelDetail) -> BTreeMap<String, (String, WhyRead)> {
    let parts = model.variants.iter().flat_map(|variant| variant.parts.iter().map(move |part| (variant, part)));
    parts.filter_map(|(variant, part)| Some((part.component.clone(), (variant.name.clone(), part.read?)))).collect()
}

async fn hashed(farm: &Farm, model: &str) -> BTreeMap<String, String> {
    let job = farm.api.submit("/v1/jobs", json!({ "kind": "hash", "args": { "model": model } })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    digests(farm, model).await
}

/// The digest of the folder, which is known.
async fn digest(farm: &Farm) -> String {
    farm.model(FOLDER).await.digest.unwrap()
}

async fn findings(farm: &Farm, level: &str) -> (String, Vec<String>) {
    let job = farm.api.submit(&format!("/v1/models/{FOLDER}/validate"), json!({ "level": level })).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.unwrap()["validation"].as_str().unwrap().to_owned();
    let report: ValidationReport = farm.api.get(&format!("/v1/models/{FOLDER}/validations/{id}")).await;
    let bad = report.findings.into_iter().filter(|finding| finding.severity != "info");
    (report.summary.verdict, bad.map(|finding| finding.code).collect())
}

async fn scanned(farm: &Farm) {
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
}

#[tokio::test]
async fn a_chosen_variant_is_what_every_later_operation_reads_until_it_is_taken_back() {
    let farm = Farm::start().await;
    library(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let usual = farm.model(FOLDER).await;
    let names: Vec<_> = usual.variants.iter().map(|variant| (variant.name.as_str(), variant.complete)).collect();
    assert_eq!(names, [("default", true), ("fp16", false)], "the text encoder is there without a variant only");
    let fp16: Vec<_> = usual.variants[1].parts.iter().map(|part| (&*part.component, &*part.dtypes[0])).collect();
    assert_eq!(fp16, [("unet", "F16"), ("vae", "F16")]);
    assert!(read(&usual).values().all(|read| *read == ("default".to_owned(), WhyRead::UsualOrder)), "{usual:?}");
    assert!(weights(&usual).values().all(|(dtype, _)| dtype == "F32"), "{usual:?}");
    loaded(&farm, FOLDER).await;
    let (before, half) = (hashed(&farm, FOLDER).await, hashed(&farm, "half").await);
    let usual_digest = digest(&farm).await;
    assert_eq!(findings(&farm, "structure").await, ("ok".to_owned(), Vec::new()));

    // names that the folder does not have are refused with those that it has
    let refused = farm.api.request(reqwest::Method::PATCH, &format!("/v1/models/{FOLDER}"));
    let problem = farm.api.send(refused.json(&json!({ "variant": "fp61" }))).await.problem(400);
    assert_eq!(problem.errors[0].pointer, "/variant");
    assert!(problem.detail.contains("`default`, `fp16`"), "{problem:?}");
    assert!(problem.hint.unwrap().contains("`fp16`"));

    let said = correct(&farm, FOLDER, json!({ "variant": "fp16" })).await;
    assert!(said.correction_pending, "{said:?}");
    let now = settled(&farm, FOLDER).await;
    assert_eq!(now.overrides.variant.as_deref(), Some("fp16"));
    for part in ["unet", "vae"] {
        assert_eq!(read(&now)[part], ("fp16".to_owned(), WhyRead::Chosen));
        assert_eq!(weights(&now)[part].0, "F16");
        assert!(weights(&now)[part].1 < weights(&usual)[part].1);
    }
    assert_eq!(read(&now)["text_encoder"], ("default".to_owned(), WhyRead::WithoutChosen), "as diffusers does");
    assert_eq!(weights(&now)["text_encoder"], weights(&usual)["text_encoder"]);
    assert!(now.summary.size_bytes < usual.summary.size_bytes && now.digest.is_none());

    // loaded, hashed, checked and converted is what was chosen
    loaded(&farm, FOLDER).await;
    let chosen = hashed(&farm, FOLDER).await;
    assert_eq!((&chosen["unet"], &chosen["vae"]), (&half["unet"], &half["vae"]));
    assert_eq!(chosen["text_encoder"], before["text_encoder"]);
    assert_ne!(digest(&farm).await, usual_digest);
    assert_eq!(findings(&farm, "hash").await.0, "ok");
    let request = json!({ "layout": "single_file", "output": { "path": "whole.safetensors" } });
    let job = farm.api.submit(&format!("/v1/models/{FOLDER}/convert"), request).await;
    let made: Value = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await.job.result.unwrap();
    let made: ConvertResult = serde_json::from_value(made).unwrap();
    assert_eq!(hashed(&farm, made.name.as_deref().unwrap()).await["unet"], half["unet"]);

    // it outlives scans, and a file of it that vanishes is missed rather than replaced
    scanned(&farm).await;
    assert_eq!(read(&farm.model(FOLDER).await), read(&now));
    let folder = farm.path("cli");
    fs::create_dir_all(&folder).unwrap();
    let api = ["--api", farm.api.url()];
    let shown = modelyard(&folder, &[&api[..], &["models", "show", FOLDER]].concat(), SHORT).await;
    let text = shown.with(0);
    assert!(text.contains("read: chosen") && text.contains("read: has no files of the chosen one"), "{text}");
    let files = ["unet", "vae"].map(|part| {
        let file = farm.library().join(FOLDER).join(part).join("diffusion_pytorch_model.fp16.safetensors");
        (file, farm.path(part))
    });
    files.iter().for_each(|(file, away)| fs::rename(file, away).unwrap());
    scanned(&farm).await;
    let gone = farm.model(FOLDER).await;
    assert!(gone.components.is_empty() && gone.summary.reason.unwrap().contains("variant `fp16`"));
    farm.api.post(&format!("/v1/models/{FOLDER}/load"), &json!({})).await.problem(415);
    assert!(findings(&farm, "structure").await.1.contains(&"missing_variant".to_owned()));
    files.iter().for_each(|(file, away)| fs::rename(away, file).unwrap());

    let clear = [&api[..], &["models", "override", FOLDER, "--clear", "variant"]].concat();
    modelyard(&folder, &clear, SHORT).await.with(0);
    let back = settled(&farm, FOLDER).await;
    assert_eq!((weights(&back), read(&back), back.overrides.variant), (weights(&usual), read(&usual), None));
    assert_eq!((hashed(&farm, FOLDER).await, digest(&farm).await), (before, usual_digest));
    loaded(&farm, FOLDER).await;
    farm.assert_ledger_is_clean().await;
}

/// Nobody reads a variant that was not chosen; that it is broken is worth a warning.
#[tokio::test]
async fn a_broken_variant_is_a_warning_with_its_file() {
    let farm = Farm::start().await;
    library(&farm);
    let broken = farm.library().join(FOLDER).join("vae/diffusion_pytorch_model.fp16.safetensors");
    fs::write(&broken, [9, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let vae = &farm.model(FOLDER).await.variants[1].parts[1];
    assert!(!vae.complete && vae.problem.is_some() && vae.read.is_none(), "{vae:?}");
    assert_eq!(findings(&farm, "structure").await, ("degraded".to_owned(), vec!["broken_variant".to_owned()]));
    loaded(&farm, FOLDER).await;
    farm.assert_ledger_is_clean().await;
}

/// Each host has files of its own: the choice holds once all of them follow.
#[tokio::test]
async fn every_host_follows_a_choice() {
    let farm = Farm::start().await;
    library(&farm);
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b")).await;
    assert_eq!(farm.model(FOLDER).await.locations.len(), 2);
    for (variant, dtype) in [(json!("fp16"), "F16"), (json!(null), "F32")] {
        correct(&farm, FOLDER, json!({ "variant": variant })).await;
        let now = settled(&farm, FOLDER).await;
        assert_eq!(weights(&now)["unet"].0, dtype);
        for host in ["a", "b"] {
            let job = load_with(&farm, FOLDER, json!({ "target": format!("device:{host}/cpu:0") })).await;
            farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
        }
        assert_eq!(weights(&farm.model(FOLDER).await), weights(&now));
    }
    farm.assert_ledger_is_clean().await;
}

/// A folder that only has another name is the same model, and is read as it was.
#[tokio::test]
async fn a_choice_goes_with_a_folder_that_is_renamed() {
    let farm = Farm::start().await;
    library(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    correct(&farm, FOLDER, json!({ "variant": "fp16" })).await;
    let before = settled(&farm, FOLDER).await;
    let known = (hashed(&farm, FOLDER).await, digest(&farm).await);
    fs::rename(farm.library().join(FOLDER), farm.library().join("moved")).unwrap();
    scanned(&farm).await;
    let now = settled(&farm, FOLDER).await;
    assert_eq!((now.summary.id, now.rel_path.as_str()), (before.summary.id, "moved"));
    assert_eq!(
        (now.overrides.variant.as_deref(), read(&now), weights(&now)),
        (Some("fp16"), read(&before), weights(&before))
    );
    let ids = |model: &ModelDetail| model.components.iter().map(|part| part.id).collect::<Vec<_>>();
    assert_eq!(ids(&now), ids(&before), "nothing was read as something else meanwhile");
    assert_eq!((hashed(&farm, FOLDER).await, digest(&farm).await), known);

    // chosen and moved while no agent ran: what it was read as before says nothing of what is found
    drop(agent);
    correct(&farm, FOLDER, json!({ "variant": null })).await;
    fs::rename(farm.library().join("moved"), farm.library().join("again")).unwrap();
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let back = settled(&farm, FOLDER).await;
    assert_eq!((back.summary.id, back.rel_path.as_str()), (before.summary.id, "again"));
    assert!(weights(&back).values().all(|(dtype, _)| dtype == "F32"), "{back:?}");
    loaded(&farm, FOLDER).await;
    farm.assert_ledger_is_clean().await;
}

/// A hash job made its list before a choice and comes to the folder after it: what it reads of the files from before is not compared with
/// what the folder is by then, though another model has one of those files.
#[tokio::test]
async fn a_hash_job_that_began_before_a_choice_marks_nothing() {
    let farm = Farm::start().await;
    library(&farm);
    let shared = farm.library().join(FOLDER).join("vae").join(PLAIN);
    fs::hard_link(shared, farm.library().join("again.safetensors")).unwrap();
    // small ones are hashed first
    ModelFile::vae(mebibytes(2)).write(&farm.path("behind"), "first.safetensors");
    let Some(disk) = failing_disk(&farm) else { return };
    let agent = farm.agent_with_library(farm.agent("a").root("far", farm.path("mounted"))).await;
    disk.hang();
    let hash = farm.api.submit("/v1/jobs", json!({ "kind": "hash", "target": "host:a" })).await;
    wait_for("a read that hangs", SHORT, || async { if disk.held() > 0 { Ok(()) } else { Err("none".to_owned()) } })
        .await;
    correct(&farm, FOLDER, json!({ "variant": "fp16" })).await;
    settled(&farm, FOLDER).await;
    let chosen = loaded(&farm, FOLDER).await;
    disk.answer();
    let told = farm.api.job_ended(hash.id, JobState::Succeeded, LONG).await.job.result.unwrap();
    assert!(told["refused"].is_null() && told["failed"] == json!([]), "{told}");
    assert_eq!(told["left"], 0, "the job came to the folder itself: {told}");
    // nor is anything recorded of a file whose component was read and is not in it any more
    for (part, file, recorded) in [("unet", PLAIN, 0), ("text_encoder", "model.safetensors", 1)] {
        let inode = fs::metadata(farm.library().join(FOLDER).join(part).join(file)).unwrap().ino().cast_signed();
        let rows = sqlx::query_scalar::<_, i64>("select count(*) from file_hashes where inode = $1").bind(inode);
        assert_eq!(rows.fetch_one(farm.ledger.pool()).await.unwrap(), recorded, "{part}");
    }
    assert_eq!(agent.metric("modelyard_digest_mismatches_total", "").await, 0.0);
    for model in [FOLDER, "again"] {
        assert_eq!(farm.model(model).await.locations[0].corrupt, [], "{model}");
    }
    assert_eq!(farm.model(FOLDER).await.digest, None, "what was read is not what it is now");
    loaded(&farm, "again").await;
    assert_eq!(loaded(&farm, FOLDER).await.job.result.unwrap()["bytes"], chosen.job.result.unwrap()["bytes"]);
    farm.assert_ledger_is_clean().await;
}
