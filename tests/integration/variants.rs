//! LoRAs over models that run, on a real ONNX Runtime (`MODELYARD_ONNXRUNTIME`; without it these stories say that they are
//! skipped): what a stack changes, what it costs, and that the base is what it was. Models are small and random.
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{collections::BTreeMap, process::Command};

use harness::{Daemon, Farm, LONG, SHORT};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    error::{ErrorBody, ErrorCode},
    job::JobState,
    wire::{DeviceView, JobDetail},
};

use crate::{
    engine::{artifact, done, make_models, result, tensors, wave, with_library},
    support::{device, device_is, metric_is, uploaded},
};

pub(crate) const MODEL: &str = "sd15-tiny-diffusers";
const LORA: &str = "lora-sd15-tiny-diffusers";

/// A farm whose agent has small models of two families and LoRAs for them; none without a library.
async fn farm_with(settings: impl FnOnce(&mut harness::AgentSettings)) -> Option<(Farm, Daemon)> {
    let farm = Farm::start().await;
    let mut agent = with_library(&farm)?;
    settings(&mut agent);
    make_models(&farm, "sd15", "diffusers");
    make_models(&farm, "lora-sd15", "both");
    let agent = farm.agent_with_library(agent).await;
    Some((farm, agent))
}

pub(crate) fn request(loras: Value) -> Value {
    json!({ "model": MODEL, "prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64, "loras": loras })
}

/// A picture with this stack, and its job.
pub(crate) async fn picture(farm: &Farm, loras: Value) -> (Vec<u8>, JobDetail) {
    made(farm, request(loras)).await
}

async fn made(farm: &Farm, body: Value) -> (Vec<u8>, JobDetail) {
    let job = done(farm, "/v1/generate", body).await;
    (artifact(farm, &job, "image-0.png").await, job)
}

/// How the variant of each part came to be there.
pub(crate) fn paths(job: &JobDetail) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let variants = result(job)["variants"].as_array().expect("variants");
    variants.iter().map(|one| (text(&one["component"]), text(&one["path"]))).collect()
}

pub(crate) fn at(weight: f64) -> Value {
    json!([{ "lora": LORA, "weight": weight }])
}

/// The bytes of a picture without the parameters that are written in it.
pub(crate) fn pixels(png: &[u8]) -> Vec<u8> {
    let (mut rest, mut kept) = (&png[8..], Vec::new());
    while rest.len() >= 12 {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let (chunk, after) = rest.split_at(12 + length);
        if &chunk[4..8] == b"IDAT" {
            kept.extend_from_slice(&chunk[8..8 + length]);
        }
        rest = after;
    }
    assert!(!kept.is_empty(), "a picture has data");
    kept
}

/// What lies on a device, by the id of each component, beside variants.
pub(crate) fn bases(view: &DeviceView) -> Vec<String> {
    let mut ids: Vec<String> =
        view.resident.iter().filter(|one| one.kind != "lora").map(|one| one.component.to_string()).collect();
    ids.sort();
    ids
}

/// A stack changes the picture, its weights change it again, and each state comes back byte for byte: from the copy that is there,
/// in whatever order the stack is written, and without it from the base.
#[tokio::test]
async fn a_stack_changes_pictures_and_each_state_comes_back_byte_for_byte() {
    let Some((farm, agent)) = farm_with(|_| {}).await else { return };
    let (plain, _) = picture(&farm, json!([])).await;
    let before = bases(&device(&farm, "a/cpu:0").await);

    let (strong, job) = picture(&farm, at(1.0)).await;
    assert!(pixels(&strong) != pixels(&plain), "the LoRA changes the picture");
    assert!(paths(&job).values().all(|path| path == "full") && paths(&job).len() == 2, "{job:?}");
    let has = |text: &[u8]| strong.windows(text.len()).any(|window| window == text);
    assert!(
        has(b"AddNet Model 1: lora-sd15-tiny-diffusers") && has(b"AddNet Weight A 1: 1"),
        "it is in the parameters"
    );

    let (weak, job) = picture(&farm, at(0.5)).await;
    assert!(pixels(&weak) != pixels(&strong), "another weight, another picture");
    assert!(paths(&job).values().all(|path| path == "full"), "every tensor has another weight: {job:?}");
    let (again, job) = picture(&farm, json!([{ "lora": LORA, "weight": 1.0, "text_encoder_weight": 1.0 }])).await;
    assert!(again == strong, "one stack, two pictures");
    assert!(paths(&job).values().all(|path| path == "cached"), "{job:?}");
    // the UNet's variant serves; that of the text encoder has another weight
    let mixed = json!([{ "lora": LORA, "weight": 1.0, "text_encoder_weight": 0.25 }]);
    let (_, job) = picture(&farm, mixed).await;
    assert_eq!((paths(&job)["unet"].as_str(), paths(&job)["text_encoder"].as_str()), ("cached", "full"));

    // some blocks alone: the rest is taken over from the variant that has it
    let blocks = json!([{ "lora": LORA, "weight": 1.0, "blocks": { "mid_block": 0.0 } }]);
    let (_, job) = picture(&farm, blocks).await;
    assert_eq!(paths(&job)["unet"], "delta", "{job:?}");

    // of two the order says nothing
    let two = |first: (&str, f64), second: (&str, f64)| json!([{ "lora": first.0, "weight": first.1 }, { "lora": second.0, "weight": second.1 }]);
    let (first, second) = ((LORA, 0.75), ("lora-sd15-tiny", -0.5));
    let (one, _) = picture(&farm, two(first, second)).await;
    let (other, job) = picture(&farm, two(second, first)).await;
    assert!(pixels(&one) == pixels(&other), "the order of a stack changed the picture");
    assert!(paths(&job).values().all(|path| path == "cached"), "{job:?}");

    let (back, _) = picture(&farm, json!([])).await;
    assert!(back == plain, "without the stack it is what it was");
    let view = device(&farm, "a/cpu:0").await;
    assert_eq!(bases(&view), before, "the base is the same copy: {view:?}");
    assert!(view.variants.iter().all(|one| one.variant.base.to_string() != one.variant.id.to_string()));
    assert!(view.variants.iter().any(|one| one.variant.loras == ["lora-sd15-tiny-diffusers:1"]), "{view:?}");
    assert_eq!(view.variants[0].model_name.as_deref(), Some(MODEL), "{view:?}");
    let count = view.variants.len() as f64;
    assert_eq!(agent.metric("modelyard_variants", "cpu:0").await, count);
    // by path: one, another weight, another in the encoder alone; of blocks what they change; the rest was there
    for (path, count) in [("full", 5.0), ("delta", 1.0), ("cached", 4.0)] {
        let found = agent.metric("modelyard_lora_apply_seconds_count", path).await;
        assert!(found >= count, "{path}: {found}");
        assert!(agent.metric("modelyard_lora_apply_seconds_sum", path).await > 0.0, "{path} takes time");
    }
    assert!(agent.metric("modelyard_lora_changed_bytes_total", "").await > 0.0);

    // variants go with what they were made from
    let job = farm.api.submit(&format!("/v1/models/{MODEL}/unload"), json!({})).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cpu:0", "no variants", |view| view.variants.is_empty() && bases(view).is_empty()).await;
    let gone = count + before.len() as f64;
    metric_is(&agent, "modelyard_device_evictions_total", "reason=\"requested\"", gone).await;
    farm.assert_ledger_is_clean().await;
}

/// Another model's VAE and text encoder take part and leave no trace; an encoder of other widths is refused before anything runs.
#[tokio::test]
async fn parts_of_other_models_stand_in_and_leave_no_trace() {
    let farm = Farm::start().await;
    let Some(agent) = with_library(&farm) else { return };
    make_models(&farm, "sd15,lora-sd15", "diffusers");
    // with other values than those of the first family
    let args = ["dev", "make-models", "--arch", "sdxl", "--layout", "diffusers", "--seed", "5", "--out"];
    let more = Command::new(harness::binary("modelyard")).args(args).arg(farm.library()).output().unwrap();
    assert!(more.status.success(), "{more:?}");
    let _agent = farm.agent_with_library(agent).await;
    let with = |more: Value| {
        let mut body = request(at(0.8));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let other = "sdxl-tiny-diffusers";
    let (own, _) = made(&farm, with(json!({}))).await;
    let (vae, job) = made(&farm, with(json!({ "vae": other }))).await;
    assert_eq!(result(&job)["vae"], other, "{job:?}");
    assert!(pixels(&vae) != pixels(&own), "another VAE, another picture");
    assert!(paths(&job).values().all(|path| path == "cached"), "the VAE has no LoRA: {job:?}");
    let (encoder, job) = made(&farm, with(json!({ "text_encoders": { "text_encoder": other } }))).await;
    assert_eq!(result(&job)["text_encoders"]["text_encoder"], other, "{job:?}");
    assert!(pixels(&encoder) != pixels(&own), "another encoder, another picture");
    assert_eq!((paths(&job)["unet"].as_str(), paths(&job)["text_encoder"].as_str()), ("cached", "full"), "{job:?}");
    let (again, _) = made(&farm, with(json!({}))).await;
    assert!(again == own, "without them it is what it was");

    let body = json!({
        "model": other, "prompt": "a cat", "steps": 1, "width": 64, "height": 64, "text_encoders": { "text_encoder_2": MODEL },
    });
    let job = farm.api.submit("/v1/generate", body).await;
    let misfit = |error: ErrorBody| {
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error:?}");
        assert!(error.message.contains("wide") && error.hint.is_some(), "{error:?}");
    };
    misfit(farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error"));
    // nor is it applied, tried dry or encoded with: nothing of that model is loaded for it
    let there = bases(&device(&farm, "a/cpu:0").await);
    let body = json!({ "model": other, "text_encoders": { "text_encoder_2": MODEL }, "target": "device:a/cpu:0" });
    assert_eq!(farm.api.send(farm.api.request(Method::PUT, "/v1/pipelines/misfit").json(&body)).await.status, 201);
    let encode = json!({ "model": other, "prompts": ["a cat"], "text_encoders": { "text_encoder_2": MODEL } });
    for (path, body) in [
        ("/v1/pipelines/misfit/apply", json!({ "dry_run": true })),
        ("/v1/pipelines/misfit/apply", json!({})),
        ("/v1/encode", encode),
    ] {
        let job = farm.api.submit(path, body).await;
        misfit(farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error"));
    }
    assert_eq!(bases(&device(&farm, "a/cpu:0").await), there);

    // a block that the UNet does not have is told with the one that was meant
    let blocks = request(json!([{ "lora": LORA, "blocks": { "mid_blok": 0.5 } }]));
    let job = farm.api.submit("/v1/generate", blocks).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error");
    assert_eq!((error.code, error.hint.as_deref()), (ErrorCode::InvalidArgument, Some("did you mean `mid_block`?")));
    farm.assert_ledger_is_clean().await;
}

/// A device that has no room beside the base for what changes: the base's copy is converted, and predicts the same; the plain base is
/// loaded again, and a restore brings it back. Where somebody keeps the base, the job waits, and the base still works.
#[tokio::test]
async fn a_device_without_room_converts_the_base_and_predicts_the_same() {
    let Some((farm, agent)) = farm_with(|_| {}).await else { return };
    let given = tensors(&[
        ("sample", &[1, 4, 8, 8], wave(256)),
        ("timestep", &[1], vec![500.0]),
        ("encoder_hidden_states", &[1, 4, 32], wave(128)),
    ]);
    let inputs = uploaded(&farm, given).await;
    let predicted = async |host: &str, loras: Value| {
        let target = format!("device:{host}/cpu:0");
        let body = json!({ "model": MODEL, "inputs": { "upload": inputs.id }, "loras": loras, "target": target });
        let job = done(&farm, "/v1/unet/step", body).await;
        (artifact(&farm, &job, "prediction.safetensors").await, job)
    };
    let (plain, _) = predicted("a", json!([])).await;
    let (strong, job) = predicted("a", at(1.0)).await;
    assert!(plain != strong, "the LoRA changes the prediction");
    let run = result(&job)["estimated_bytes"].as_u64().unwrap();
    let body = json!({ "model": MODEL, "loras": at(1.0) });
    assert_eq!(farm.api.send(farm.api.request(Method::PUT, "/v1/pipelines/ink").json(&body)).await.status, 201);
    done(&farm, "/v1/pipelines/ink/apply", json!({ "target": "device:a/cpu:0" })).await;
    let view = device(&farm, "a/cpu:0").await;
    let all: u64 = view.resident.iter().map(|one| one.bytes).sum();
    let unet = view.resident.iter().find(|one| one.kind == "unet").unwrap().bytes;
    let changed = view.variants.iter().map(|one| one.variant.bytes).max().unwrap();
    // all parts and the LoRA, not what changes; beside the UNet alone a run has room
    let capacity = all + changed / 2;
    assert!(capacity - unet > run, "the run takes {run} bytes, {} are left", capacity - unet);
    drop(agent);

    let mut small = with_library(&farm).unwrap();
    (small.host, small.cpu_memory) = ("b".to_owned(), format!("{capacity}B"));
    let agent = farm.agent_with_library(small).await;
    let apply = json!({ "target": "device:b/cpu:0" });
    let foreseen = done(&farm, "/v1/pipelines/ink/apply", json!({ "target": "device:b/cpu:0", "dry_run": true })).await;
    assert_eq!((&paths(&foreseen)["unet"], &result(&foreseen)["short_bytes"]), (&"in_place".to_owned(), &json!(0)));
    let conditions =
        result(&foreseen)["variants"].as_array().unwrap().iter().filter(|one| one["condition"].is_string());
    assert_eq!(conditions.count(), 1, "a condition of what is made in place: {foreseen:?}");
    let applied = done(&farm, "/v1/pipelines/ink/apply", apply.clone()).await;
    assert_eq!(paths(&applied)["unet"], "in_place", "{applied:?}");
    let view = device(&farm, "b/cpu:0").await;
    assert!(view.variants.iter().any(|one| one.variant.whole) && view.resident.iter().all(|one| one.kind != "unet"));
    let (prediction, job) = predicted("b", at(1.0)).await;
    assert!(prediction == strong && paths(&job)["unet"] == "cached", "the same bytes as with room: {job:?}");
    assert!(predicted("b", json!([])).await.0 == plain, "the base is loaded again");

    assert_eq!(paths(&done(&farm, "/v1/pipelines/ink/apply", apply.clone()).await)["unet"], "in_place");
    assert!(agent.metric("modelyard_lora_apply_seconds_count", "in_place").await >= 2.0);
    let restore = json!({ "target": "device:b/cpu:0", "verify": true });
    let restored = done(&farm, "/v1/pipelines/ink/restore", restore).await;
    assert_eq!(result(&restored)["loaded_again"].as_array().unwrap().len(), 1, "{restored:?}");
    let is_back = |view: &DeviceView| {
        view.resident.iter().any(|one| one.kind == "unet") && view.variants.iter().all(|one| !one.variant.whole)
    };
    device_is(&farm, "b/cpu:0", "the base is back", is_back).await;

    let keep = json!({ "components": ["unet"], "protect": true, "target": "device:b/cpu:0" });
    done(&farm, &format!("/v1/models/{MODEL}/load"), keep).await;
    let before = device(&farm, "b/cpu:0").await;
    let variants = |view: &DeviceView| view.variants.iter().map(|one| one.variant.id).collect::<Vec<_>>();
    // what a dry run says of a base that has to stay
    let dry = json!({ "target": "device:b/cpu:0", "dry_run": true });
    let foreseen = done(&farm, "/v1/pipelines/ink/apply", dry).await;
    let unet = result(&foreseen)["variants"].as_array().unwrap().iter().find(|one| one["component"] == "unet").unwrap();
    assert_eq!(unet["base_stays"], "its copy is protected", "{foreseen:?}");
    assert!(result(&foreseen)["short_bytes"].as_u64().unwrap() > 0, "{foreseen:?}");
    let waits = farm.api.submit("/v1/pipelines/ink/apply", apply).await;
    let is_waiting = |seen: &JobDetail| seen.job.state == JobState::Pending && !seen.attempts.is_empty();
    farm.api.job_is(waits.id, "it waits for room", LONG, is_waiting).await;
    assert!(predicted("b", json!([])).await.0 == plain, "what was there works on");
    // what nobody keeps may have gone for the room that was not enough; what is there is what was there
    let after = device(&farm, "b/cpu:0").await;
    assert!(bases(&after).iter().all(|id| bases(&before).contains(id)) && variants(&after) == variants(&before));
    farm.api.cancel(waits.id).await;
    farm.api.job_ended(waits.id, JobState::Cancelled, LONG).await;
    farm.assert_ledger_is_clean().await;
}

/// A runner that dies under a stack costs an attempt, never a wrong picture; and variants keep to their bound.
#[tokio::test]
async fn a_runner_that_dies_costs_an_attempt_and_variants_keep_to_their_bound() {
    let bounded = |agent: &mut harness::AgentSettings| agent.more.extend(["--variant-budget".into(), "1B".into()]);
    let Some((farm, agent)) = farm_with(bounded).await else { return };
    let (strong, _) = picture(&farm, at(1.0)).await;
    let (weak, _) = picture(&farm, at(0.5)).await;
    let view = device(&farm, "a/cpu:0").await;
    let told: Vec<&str> = view.variants.iter().map(|one| one.variant.loras[0].as_str()).collect();
    assert_eq!(told, ["lora-sd15-tiny-diffusers:0.5"; 2], "those that nobody uses go first: {view:?}");
    // a dry run says so beforehand
    let body = json!({ "model": MODEL, "loras": at(0.25), "target": "device:a/cpu:0" });
    assert_eq!(farm.api.send(farm.api.request(Method::PUT, "/v1/pipelines/ink").json(&body)).await.status, 201);
    let foreseen = done(&farm, "/v1/pipelines/ink/apply", json!({ "dry_run": true })).await;
    let mut going: Vec<(&str, &str)> = result(&foreseen)["evictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["component"].as_str().unwrap(), one["why"].as_str().unwrap()))
        .collect();
    let ids: Vec<String> = view.variants.iter().map(|one| one.variant.id.to_string()).collect();
    let mut there: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), "variant_budget")).collect();
    going.sort_unstable();
    there.sort_unstable();
    assert_eq!(going, there, "{foreseen:?}");
    assert_eq!(device(&farm, "a/cpu:0").await.variants.len(), 2, "and nothing is gone");
    for (weight, expected) in [(1.0, &strong), (0.5, &weak)] {
        let job = farm.api.submit("/v1/generate", request(at(weight))).await;
        let begun = |seen: &JobDetail| seen.job.state == JobState::Running && seen.job.progress.is_some();
        farm.api.job_is(job.id, "it has begun", LONG, |seen| begun(seen) || seen.job.state.is_terminal()).await;
        agent.kill_runner().await;
        let ended = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
        assert!(artifact(&farm, &ended, "image-0.png").await == *expected, "a wrong picture after a death: {ended:?}");
        let (again, _) = picture(&farm, at(weight)).await;
        assert!(again == *expected);
    }
    farm.assert_ledger_is_clean().await;
}

/// What a pipeline would take is told and nothing changes; it is applied, seen on the device, restored with its base checked, and
/// makes the pictures that a stack of its own makes.
#[tokio::test]
async fn a_pipeline_is_foreseen_applied_and_restored_with_its_base_checked() {
    let Some((farm, agent)) = farm_with(|_| {}).await else { return };
    let body = json!({ "model": MODEL, "loras": at(1.0), "target": "device:a/cpu:0", "keep_alive": "1h" });
    let put = farm.api.request(Method::PUT, "/v1/pipelines/ink").json(&body);
    assert_eq!(farm.api.send(put).await.status, 201);
    let foreseen = done(&farm, "/v1/pipelines/ink/apply", json!({ "dry_run": true })).await;
    let told = result(&foreseen);
    let count = |list: &str| told[list].as_array().expect("a list").len();
    assert_eq!((count("loads"), count("variants"), count("evictions")), (4, 2, 0), "{told}");
    assert!(told["compute_seconds"].as_f64().unwrap() > 0.0 && told["load_bytes"].as_u64().unwrap() > 0, "{told}");
    assert!(device(&farm, "a/cpu:0").await.resident.is_empty(), "nothing was changed");

    let applied = done(&farm, "/v1/pipelines/ink/apply", json!({ "verify": true })).await;
    assert!(paths(&applied).values().all(|path| path == "full"), "{applied:?}");
    assert!(agent.metric("modelyard_restore_checks_total", "equal").await > 0.0, "{applied:?}");
    let view = device(&farm, "a/cpu:0").await;
    let uses = |view: &DeviceView, name: &str| {
        view.variants.iter().filter(|one| one.variant.pipelines.iter().any(|pipeline| pipeline == name)).count()
    };
    assert!(uses(&view, "ink") == 2 && view.variants.iter().all(|one| one.variant.expires_at.is_some()), "{view:?}");
    let (own, _) = picture(&farm, at(1.0)).await;
    let body = json!({ "pipeline": "ink", "prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64 });
    let (image, job) = made(&farm, body).await;
    assert!(image == own, "the pipeline's picture is that of its stack");
    assert!(paths(&job).values().all(|path| path == "cached"), "{job:?}");

    let before = agent.metric("modelyard_restore_checks_total", "equal").await;
    let job = farm.api.submit("/v1/pipelines/ink/restore", json!({ "verify": true })).await;
    let restored = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let checks = result(&restored)["checks"].as_array().unwrap().clone();
    assert!(checks.len() == 2 && checks.iter().all(|one| one["result"] == "equal"), "{restored:?}");
    assert_eq!(agent.metric("modelyard_restore_checks_total", "equal").await, before + 2.0);
    let view = device_is(&farm, "a/cpu:0", "no pipeline", |view| uses(view, "ink") == 0).await;
    assert_eq!(view.variants.len(), 2, "what was made stays until room is needed: {view:?}");
    farm.assert_ledger_is_clean().await;
}
