//! Models in other layouts and types: the same components under other names, nothing but whole files, and originals as they were.

#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{ConvertResult, ModelDetail},
};

use crate::{
    command_line::modelyard,
    corrections::{correct, settled},
    engine, lora_files,
    support::bytes_move,
    torch_files,
};

fn make_models(farm: &Farm, arch: &str) {
    let made = Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", arch, "--layout", "single", "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

fn convert_path(model: &str) -> String {
    format!("/v1/models/{model}/convert")
}

async fn converted(farm: &Farm, model: &str, request: Value) -> ConvertResult {
    let job = farm.api.submit(&convert_path(model), request).await;
    let ended = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    serde_json::from_value(ended.job.result.expect("a result")).expect("a ConvertResult")
}

async fn refused(farm: &Farm, model: &str, request: Value) -> ErrorCode {
    let job = farm.api.submit(&convert_path(model), request).await;
    let ended = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    ended.job.error.expect("an error").code
}

/// Digests of a model's components, once its files were hashed.
async fn digests(farm: &Farm, model: &str) -> BTreeMap<String, String> {
    wait_for(&format!("the digests of {model}"), LONG, || async {
        let detail: ModelDetail = farm.api.get(&format!("/v1/models/{model}")).await;
        let known: Option<BTreeMap<String, String>> =
            detail.components.iter().map(|part| Some((part.kind.clone(), part.digest.clone()?))).collect();
        known.filter(|known| !known.is_empty()).ok_or_else(|| format!("{:?}", detail.components))
    })
    .await
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The range of a tensor's bytes in a safetensors file.
fn range_of(bytes: &[u8], tensor: &str) -> std::ops::Range<usize> {
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let at = |end: usize| 8 + length + usize::try_from(header[tensor]["data_offsets"][end].as_u64().unwrap()).unwrap();
    at(0)..at(1)
}

#[tokio::test]
async fn a_single_file_becomes_a_folder_and_a_single_file_again_with_the_same_components() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15,sdxl");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    for model in ["sd15-tiny", "sdxl-tiny"] {
        let before = fs::read(farm.library().join(format!("{model}.safetensors"))).unwrap();
        let folder = format!("{model}-folder");
        let request = json!({ "layout": "diffusers", "output": { "path": folder }, "title": "made anew" });
        let made = converted(&farm, model, request).await;
        assert_eq!((made.from.as_str(), made.name.as_deref()), (model, Some(folder.as_str())));
        // the job had succeeded with the model in the catalogue: there is nothing to wait for
        let there: ModelDetail = farm.api.get(&format!("/v1/models/{}", made.model.expect("a model"))).await;
        assert_eq!((there.summary.format.as_str(), there.summary.reason.as_deref()), ("diffusers", None));
        let from = there.made_from.expect("what it was made from");
        assert_eq!((&from["models"][0]["as"], &from["models"][0]["name"]), (&json!("base"), &json!(model)));
        assert_eq!(from["layout"], "diffusers");

        let back = format!("{model}-back");
        let request =
            json!({ "layout": "single_file", "output": { "root": "main", "path": format!("{back}.safetensors") } });
        let made = converted(&farm, &folder, request).await;
        assert_eq!(made.payload_sha256.len(), 1);
        let original = digests(&farm, model).await;
        assert_eq!(digests(&farm, &folder).await, original, "{model}");
        assert_eq!(digests(&farm, &back).await, original, "{model}");
        // models with equal components share them
        let parts = async |name: &str| -> Vec<_> {
            let detail: ModelDetail = farm.api.get(&format!("/v1/models/{name}")).await;
            detail.components.into_iter().map(|part| part.id).collect()
        };
        assert_eq!(parts(&back).await, parts(model).await);
        let job = farm.api.submit(&format!("/v1/models/{back}/validate"), json!({ "level": "weights" })).await;
        let ended = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
        assert_eq!(ended.job.result.expect("a result")["verdict"], "ok");
        assert_eq!(fs::read(farm.library().join(format!("{model}.safetensors"))).unwrap(), before);
    }
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn a_part_that_overflows_keeps_its_type_and_pickles_become_safetensors() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/golden/pickles/embedding.zip.pt");
    fs::copy(golden, farm.library().join("learned.pt")).unwrap();
    let agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    // made models are of 16 bits: what is to overflow has to be wide first
    converted(&farm, "sd15-tiny", json!({ "dtype": "fp32", "output": { "path": "wide.safetensors" } })).await;
    let path = farm.library().join("wide.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let bias = range_of(&bytes, "first_stage_model.decoder.conv_in.bias");
    bytes[bias.start..bias.start + 4].copy_from_slice(&1e6_f32.to_le_bytes());
    fs::write(farm.library().join("loud.safetensors"), &bytes).unwrap();
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let request = json!({ "layout": "single_file", "dtype": "fp16", "output": { "path": "half.safetensors" } });
    let made = converted(&farm, "loud", request).await;
    let [kept] = made.kept.as_slice() else { panic!("{:?}", made.kept) };
    assert_eq!((kept.component.as_str(), kept.values, kept.tensors, kept.largest), ("vae", 1, 1, 1e6));
    assert_eq!(kept.named[0].tensor, "first_stage_model.decoder.conv_in.bias");
    let half: ModelDetail = farm.api.get("/v1/models/half").await;
    let types: BTreeMap<_, _> = half.components.iter().map(|part| (part.kind.as_str(), part.dtype.as_str())).collect();
    assert_eq!(types, BTreeMap::from([("text_encoder", "F16"), ("unet", "F16"), ("vae", "F32")]));

    // a pickle becomes a safetensors file with the same tensor
    let made = converted(&farm, "learned", json!({ "output": { "path": "safe.safetensors" } })).await;
    assert!(made.dropped.is_empty(), "{:?}", made.dropped);
    assert_eq!(digests(&farm, "safe").await, digests(&farm, "learned").await);
    assert!(agent.metric("modelyard_job_attempts_total", "kind=\"convert\"").await >= 3.0);
}

#[tokio::test]
async fn loras_are_baked_into_the_tensors_that_they_change_and_refused_on_another_base() {
    let farm = Farm::start().await;
    make_models(&farm, "sdxl,lora-sdxl,lora-sd15");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    let at = |weight: f64, path: &str| json!({ "layout": "single_file", "loras": [{ "lora": "lora-sdxl-tiny", "weight": weight }], "output": { "path": path } });
    let made = converted(&farm, "sdxl-tiny", at(0.8, "baked.safetensors")).await;
    assert!(made.baked > 50, "{}", made.baked);
    let none = converted(&farm, "sdxl-tiny", at(0.0, "none.safetensors")).await;
    assert_eq!(none.baked, 0);
    // what changes nothing is told, and the model does not say that it was made from it
    let [idle] = none.loras_without_effect.as_slice() else { panic!("{none:?}") };
    assert!(idle.lora == "lora-sdxl-tiny" && idle.why.contains("weights are 0"), "{idle:?}");
    let silent: ModelDetail = farm.api.get("/v1/models/none").await;
    assert_eq!(silent.made_from.expect("what it was made from")["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(silent.metadata.get("modelspec.merged_from"), None);
    assert_eq!((made.loras_without_effect.len(), made.lora_misfits.len()), (0, 0));
    let (base, baked, none) =
        (digests(&farm, "sdxl-tiny").await, digests(&farm, "baked").await, digests(&farm, "none").await);
    assert_eq!(none, base);
    let differs: Vec<&str> =
        base.iter().filter(|(kind, digest)| baked[*kind] != **digest).map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(differs, ["text_encoder", "text_encoder_2", "unet"]);
    let detail: ModelDetail = farm.api.get("/v1/models/baked").await;
    let from = detail.made_from.expect("what it was made from");
    assert_eq!((&from["models"][1]["name"], &from["models"][1]["weight"]), (&json!("lora-sdxl-tiny"), &json!(0.8)));
    assert_eq!(detail.metadata["modelspec.merged_from"], "sdxl-tiny, lora-sdxl-tiny");

    let wrong = json!({ "loras": [{ "lora": "lora-sd15-tiny" }], "output": { "path": "wrong.safetensors" } });
    assert_eq!(refused(&farm, "sdxl-tiny", wrong).await, ErrorCode::InvalidArgument);
    assert!(!names(&farm.library()).iter().any(|name| name.contains("wrong")), "{:?}", names(&farm.library()));
}

/// A checkpoint as a trainer saves it, with all parts, a step and an optimizer: as safetensors and as a folder it is the same model.
#[tokio::test]
async fn a_checkpoint_of_a_trainer_becomes_safetensors_and_a_folder() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15");
    let single = farm.library().join("sd15-tiny.safetensors");
    torch_files::write_in_training(&farm.library().join("trained.ckpt"), &lora_files::read(&single));
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    let original = digests(&farm, "sd15-tiny").await;
    assert_eq!(original.keys().collect::<Vec<_>>(), ["text_encoder", "unet", "vae"]);
    assert_eq!(digests(&farm, "trained").await, original, "the checkpoint is the single file");
    for (layout, path, name) in [("same", "same.safetensors", "same"), ("diffusers", "folder", "folder")] {
        let made = converted(&farm, "trained", json!({ "layout": layout, "output": { "path": path } })).await;
        assert_eq!(made.payload_sha256.len(), if layout == "same" { 1 } else { 3 }, "{made:?}");
        assert_eq!(digests(&farm, name).await, original, "{layout}");
    }
    farm.assert_ledger_is_clean().await;
}

/// The command to its end: another VAE and a LoRA go in, the type changes, and the model says what it was made from.
#[tokio::test]
async fn the_command_makes_a_model_of_three() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15,sdxl,lora-sd15");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    let folder = farm.path("cli");
    fs::create_dir(&folder).unwrap();
    let arguments = "convert sd15-tiny -o main:three.safetensors --vae sdxl-tiny --lora lora-sd15-tiny:0.5:1:mid_block=0.5 --dtype fp16";
    let arguments: Vec<&str> = ["--api", farm.api.url(), "--json"].into_iter().chain(arguments.split(' ')).collect();
    let job = modelyard(&folder, &arguments, LONG).await.json();
    let made: ConvertResult = serde_json::from_value(job["result"].clone()).expect("a ConvertResult");
    assert!(made.baked > 50 && made.name.as_deref() == Some("three"), "{made:?}");
    let there: ModelDetail = farm.api.get("/v1/models/three").await;
    let from = there.made_from.expect("what it was made from");
    let models: Vec<(&str, &str)> = from["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (model["as"].as_str().unwrap(), model["name"].as_str().unwrap()))
        .collect();
    assert_eq!(models, [("base", "sd15-tiny"), ("vae", "sdxl-tiny"), ("lora", "lora-sd15-tiny")]);
    // whose digests stand there, also where nobody had hashed them before
    for (at, (model, parts)) in [("sd15-tiny", 3), ("sdxl-tiny", 4)].into_iter().enumerate() {
        let told = &from["models"][at];
        let of: ModelDetail = farm.api.get(&format!("/v1/models/{model}")).await;
        let hashes = of.hashes.expect("recorded with what was made");
        assert_eq!((told["sha256"].as_str(), told["digest"].is_string()), (hashes.sha256.as_deref(), true), "{from}");
        let known: BTreeMap<String, String> = serde_json::from_value(told["components"].clone()).expect("digests");
        assert_eq!((&known, known.len()), (&digests(&farm, model).await, parts));
    }
    assert!(from["models"][2]["digest"].as_str().is_some_and(|digest| digest.starts_with("blake3:")), "{from}");
    let lora = &from["models"][2];
    assert_eq!(
        (&lora["weight"], &lora["text_encoder_weight"], &lora["blocks"]["mid_block"]),
        (&json!(0.5), &json!(1.0), &json!(0.5))
    );
    assert_eq!((&from["dtype"], &from["layout"]), (&json!("fp16"), &json!("same")));
    assert_eq!(there.metadata["modelspec.merged_from"], "sd15-tiny, sdxl-tiny, lora-sd15-tiny");
    let (base, vae, three) =
        (digests(&farm, "sd15-tiny").await, digests(&farm, "sdxl-tiny").await, digests(&farm, "three").await);
    // none of the three is replaced by what is made of it, though the last was made here
    let over = json!({ "vae": "three", "output": { "path": "three.safetensors" }, "overwrite": true });
    assert_eq!(refused(&farm, "sd15-tiny", over).await, ErrorCode::Conflict);
    assert_eq!((&three["vae"], three["vae"] == base["vae"]), (&vae["vae"], false), "made models have 16 bits");
    assert!(three["unet"] != base["unet"] && three["text_encoder"] != base["text_encoder"]);
    assert!(there.components.iter().all(|part| part.dtype == "F16"), "{:?}", there.components);
    farm.assert_ledger_is_clean().await;
}

/// SDXL's VAE fits 16 bits and overflows when it runs in them: it keeps its 32 unless its type is named.
#[tokio::test]
async fn a_vae_that_overflows_when_it_runs_keeps_its_type_unless_that_is_named() {
    let farm = Farm::start().await;
    make_models(&farm, "sdxl");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    converted(&farm, "sdxl-tiny", json!({ "dtype": "fp32", "output": { "path": "wide.safetensors" } })).await;
    let types = async |model: &str| -> BTreeMap<String, String> {
        let detail: ModelDetail = farm.api.get(&format!("/v1/models/{model}")).await;
        detail.components.into_iter().map(|part| (part.kind, part.dtype)).collect()
    };
    let made = converted(&farm, "wide", json!({ "dtype": "fp16", "output": { "path": "half.safetensors" } })).await;
    let [kept] = made.kept.as_slice() else { panic!("{:?}", made.kept) };
    assert_eq!((kept.component.as_str(), kept.runs_over, kept.values), ("vae", true, 0));
    let half = types("half").await;
    assert_eq!((half["vae"].as_str(), half["unet"].as_str()), ("F32", "F16"), "{half:?}");

    let named = json!({ "dtype": "fp16", "vae_dtype": "fp16", "output": { "path": "all.safetensors" } });
    let made = converted(&farm, "wide", named).await;
    assert!(made.kept.is_empty() && types("all").await.values().all(|dtype| dtype == "F16"), "{made:?}");
    // a file of nothing but the VAE does not say whose it is: the model that it is put into does
    converted(&farm, "wide", json!({ "layout": "diffusers", "output": { "path": "folder" } })).await;
    let lone = farm.library().join("folder/vae/diffusion_pytorch_model.safetensors");
    fs::copy(lone, farm.library().join("lone.safetensors")).unwrap();
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let put = |path: &str| json!({ "vae": "lone", "dtype": "fp16", "output": { "path": path } });
    let made = converted(&farm, "sdxl-tiny", put("with-lone.safetensors")).await;
    assert!(made.kept.iter().any(|kept| kept.runs_over) && types("with-lone").await["vae"] == "F32", "{made:?}");
    // unless its operator says that these weights were trained for it
    correct(&farm, "lone", json!({ "config": { "vae": { "force_upcast": false } } })).await;
    settled(&farm, "lone").await;
    let made = converted(&farm, "sdxl-tiny", put("with-mended.safetensors")).await;
    assert!(made.kept.is_empty() && types("with-mended").await["vae"] == "F16", "{made:?}");
    // what has 16 bits already keeps them, and nothing is said of it
    let made =
        converted(&farm, "sdxl-tiny", json!({ "dtype": "fp16", "output": { "path": "same.safetensors" } })).await;
    assert!(made.kept.is_empty() && types("same").await["vae"] == "F16", "{made:?}");
}

/// What a model is made from is named by its digests also where nobody had hashed it, and is hashed from then on.
#[tokio::test]
async fn a_model_names_what_it_was_made_from_by_digests_that_nobody_had_known() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("0")).await;
    let before: ModelDetail = farm.api.get("/v1/models/sd15-tiny").await;
    assert!(before.hashes.is_none() && before.components.iter().all(|part| part.digest.is_none()), "{before:?}");
    converted(&farm, "sd15-tiny", json!({ "output": { "path": "same.safetensors" } })).await;
    let there: ModelDetail = farm.api.get("/v1/models/same").await;
    let told = there.made_from.expect("what it was made from")["models"][0].clone();
    let after: ModelDetail = farm.api.get("/v1/models/sd15-tiny").await;
    let hashes = after.hashes.expect("recorded with what was made");
    assert_eq!((told["sha256"].as_str(), told["digest"].is_string()), (hashes.sha256.as_deref(), true), "{told}");
    let known: BTreeMap<String, String> = serde_json::from_value(told["components"].clone()).expect("digests");
    assert_eq!((&known, known.len()), (&digests(&farm, "sd15-tiny").await, 3));
    farm.assert_ledger_is_clean().await;
}

/// Other bytes than are registered by the time it is done: what was made of them is nobody's, and nothing of it stays.
#[tokio::test]
async fn what_was_made_of_other_bytes_than_are_registered_is_taken_away_again() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(32)).write(&farm.library(), "small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("0").read_limit("8MiB")).await;
    let job = farm.api.submit(&convert_path("small"), json!({ "output": { "path": "copy.safetensors" } })).await;
    wait_for("the source to be hashed", LONG, || async {
        let begun = farm.library().join(".modelyard-copy.safetensors.partial").exists();
        if begun { Ok(()) } else { Err("nothing is written yet".to_owned()) }
    })
    .await;
    // as a load on another host registers them meanwhile
    let digest = format!("blake3:{}", "0".repeat(64));
    let registered = sqlx::query("update components set digest = $1 where digest is null and kind = 'vae'")
        .bind(&digest)
        .execute(farm.ledger.pool())
        .await
        .expect("a digest");
    assert_eq!(registered.rows_affected(), 1);
    let ended = farm.api.job_ended(job.id, JobState::Failed, LONG).await;
    let error = ended.job.error.expect("an error");
    assert!(error.code == ErrorCode::Corrupt && error.message.contains(&digest), "{error:?}");
    assert!(error.message.contains("small.safetensors") && error.hint.is_some(), "{error:?}");
    wait_for("what was made to be taken away", SHORT, || async {
        let there = names(&farm.library());
        if there == ["small.safetensors"] { Ok(()) } else { Err(format!("{there:?}")) }
    })
    .await;
    farm.api.ask("/v1/models/copy").await.problem(404);
}

/// A stack that is baked in and the same one applied give the same floats: both are summed and rounded once, in one order.
#[tokio::test]
async fn a_baked_stack_answers_as_an_applied_one() {
    let farm = Farm::start().await;
    let Some(settings) = engine::with_library(&farm) else { return };
    engine::make_models(&farm, "sd15,lora-sd15", "diffusers");
    let _agent = farm.agent_with_library(settings).await;
    let (base, stack) = ("sd15-tiny-diffusers", json!([{ "lora": "lora-sd15-tiny-diffusers", "weight": -0.7 }]));
    let request = json!({ "layout": "diffusers", "loras": stack, "output": { "path": "baked" } });
    assert!(converted(&farm, base, request).await.baked > 50);
    let image = async |model: &str, loras: &Value| {
        let request = json!({ "model": model, "loras": loras, "prompt": "a cat", "steps": 2, "seed": 7, "width": 64,
            "height": 64, "format": "safetensors" });
        let job = engine::done(&farm, "/v1/generate", request).await;
        let file = engine::artifact(&farm, &job, "image.safetensors").await;
        let data = 8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
        file[data..].to_vec()
    };
    let applied = image(base, &stack).await;
    assert_eq!(applied.len(), 3 * 64 * 64 * 4);
    assert!(applied == image("baked", &json!([])).await, "baked in, it is another model");
    assert!(applied != image(base, &json!([])).await, "the stack changes nothing");
}

#[tokio::test]
async fn an_attempt_goes_on_after_the_one_that_was_killed_and_a_cancelled_job_leaves_nothing() {
    let farm = Farm::start().await;
    let each = mebibytes(80);
    ModelFile::checkpoint(each, each, each).write(&farm.library(), "big.safetensors");
    let mut agent = farm.agent_with_library(farm.agent("a").hash_limit("none").read_limit("32MiB")).await;
    let partial = farm.library().join(".modelyard-copy.safetensors.partial");
    let journal = farm.library().join(".modelyard-copy.safetensors.journal");
    let request = json!({ "output": { "path": "copy.safetensors" } });
    let job = farm.api.submit(&convert_path("big"), request.clone()).await;
    // a line for the plan and one for the first tensors that are safe
    wait_for("a stretch to be safe", LONG, || async {
        let lines = fs::read_to_string(&journal).unwrap_or_default().lines().count();
        if lines >= 2 { Ok(()) } else { Err(format!("{lines} lines")) }
    })
    .await;
    agent.process.kill().await;
    assert!(partial.is_file() && !farm.library().join("copy.safetensors").exists());
    let _agent = farm.start_agent(farm.agent("a").hash_limit("none")).await;
    let ended = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let made: ConvertResult = serde_json::from_value(ended.job.result.expect("a result")).expect("a ConvertResult");
    assert!(made.resumed_bytes >= each && made.resumed_bytes < made.bytes, "{}", made.resumed_bytes);
    assert_eq!(ended.attempts.len(), 2, "{:?}", ended.attempts);
    assert_eq!(digests(&farm, "copy").await, digests(&farm, "big").await);
    assert_eq!(names(&farm.library()), ["big.safetensors", "copy.safetensors"]);

    // what is there stays, unless overwriting is asked for and it is ours
    assert_eq!(refused(&farm, "big", request).await, ErrorCode::Conflict);
    let over = |path: &str| json!({ "output": { "path": path }, "overwrite": true });
    assert_eq!(refused(&farm, "big", over("big.safetensors")).await, ErrorCode::Conflict);
    converted(&farm, "big", over("copy.safetensors")).await;
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn a_cancelled_conversion_leaves_nothing_and_outputs_stay_below_the_root() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(64)).write(&farm.library(), "small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("4MiB")).await;
    let job = farm.api.submit(&convert_path("small"), json!({ "output": { "path": "copy.safetensors" } })).await;
    bytes_move(&farm, &job).await;
    assert_eq!(farm.api.cancel(job.id).await.status, 202);
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    assert_eq!(names(&farm.library()), ["small.safetensors"]);

    for path in ["../x.safetensors", "/x.safetensors", ".x.safetensors", "a//x.safetensors", ""] {
        let problem = farm.api.post(&convert_path("small"), &json!({ "output": { "path": path } })).await.problem(400);
        assert_eq!(problem.errors[0].pointer, "/output/path", "{path}");
    }
    let problem = farm
        .api
        .post(&convert_path("small"), &json!({ "output": { "root": "mine", "path": "x.safetensors" } }))
        .await
        .problem(400);
    assert_eq!(problem.errors[0].pointer, "/output/root");
    let to = |path: &str| json!({ "output": { "path": path } });
    assert_eq!(refused(&farm, "small", to("none/x.safetensors")).await, ErrorCode::NotFound);
    std::os::unix::fs::symlink(farm.path("."), farm.library().join("out")).unwrap();
    assert_eq!(refused(&farm, "small", to("out/x.safetensors")).await, ErrorCode::NotFound);
    // a lone VAE of no known family has no scale to write down
    let folder = json!({ "layout": "diffusers", "output": { "path": "folder" } });
    assert_eq!(refused(&farm, "small", folder).await, ErrorCode::Unsupported);
}

/// Unmounts when it is dropped.
pub(crate) struct Mounted(std::path::PathBuf);

impl Mounted {
    /// A file system of so many MiB at a new folder; none where this process may not mount, which is said.
    #[expect(clippy::print_stdout, reason = "tests/run counts what says that it was skipped")]
    pub(crate) fn small(folder: &Path, mib: u64) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status();
        if !mount.is_ok_and(|status| status.success()) {
            println!("skipped: convert: this process may not mount");
            return None;
        }
        Some(Self(folder.to_owned()))
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) -> std::path::PathBuf {
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let chunk = vec![1_u8; 1 << 16];
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
        filler
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // a mount that stays is the next run's to find
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_is_said_and_left_as_it_was() {
    let farm = Farm::start().await;
    let folder = farm.path("small-disk");
    let Some(mounted) = Mounted::small(&folder, 96) else { return };
    ModelFile::vae(mebibytes(30)).write(&farm.library(), "small.safetensors");
    let settings = farm.agent("a").root("scarce", &folder).read_limit("4MiB");
    let _agent = farm.agent_with_library(settings).await;
    let request = json!({ "output": { "root": "scarce", "path": "copy.safetensors" } });
    let job = farm.api.submit(&convert_path("small"), request).await;
    bytes_move(&farm, &job).await;
    // somebody else takes the room meanwhile
    mounted.fill();
    let seen = farm
        .api
        .job_is(job.id, "the disk to be full", LONG, |seen| {
            seen.attempts.first().is_some_and(|attempt| attempt.error.is_some())
        })
        .await;
    let error = seen.attempts[0].error.clone().expect("an error");
    assert_eq!(error.code, ErrorCode::InsufficientCapacity, "{error:?}");
    assert_eq!(names(&folder), ["filler"]);
    // it waits for room, as work does that lacks memory
    assert_eq!(farm.api.cancel(job.id).await.status, 200);
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
}

#[tokio::test]
async fn converted_models_load_in_diffusers() {
    let Some(python) = std::env::var_os("MODELYARD_PYTHON") else {
        eprintln!("skipped: MODELYARD_PYTHON names no Python that has diffusers");
        return;
    };
    let farm = Farm::start().await;
    let families = ["sd15", "sd21", "sdxl", "sdxl-refiner"];
    let made = Command::new(harness::binary("modelyard"))
        .args([
            "dev",
            "make-models",
            "--arch",
            &format!("{},lora-sd15,lora-sdxl", families.join(",")),
            "--layout",
            "both",
        ])
        .arg("--out")
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    for family in families {
        let (single, folder) = (format!("{family}-tiny"), format!("{family}-tiny-diffusers"));
        let to = |end: &str| json!({ "path": format!("{family}-tiny-{end}") });
        converted(&farm, &single, json!({ "layout": "diffusers", "output": to("folder") })).await;
        converted(&farm, &folder, json!({ "layout": "single_file", "output": to("back.safetensors") })).await;
        let wide = json!({ "layout": "single_file", "dtype": "fp32", "output": to("wide.safetensors") });
        converted(&farm, &folder, wide).await;
        if ["sd15", "sdxl"].contains(&family) {
            let stack = json!([{ "lora": format!("lora-{family}-tiny-diffusers"), "weight": 0.8 }]);
            let baked =
                json!({ "layout": "single_file", "dtype": "fp32", "loras": stack, "output": to("baked.safetensors") });
            assert!(converted(&farm, &folder, baked).await.baked > 50);
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/check_converted.py");
    let checked = Command::new(python).arg(script).arg(farm.library()).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
