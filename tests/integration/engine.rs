//! Models that run: decode, encode, predict and generate over the API, on a real ONNX Runtime (`MODELYARD_ONNXRUNTIME`; without it
//! these stories say that they are skipped). The models are small and random, so pictures are noise and figures finite.
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::path::Path;

use harness::{AgentSettings, Farm, LONG, SHORT, wait_for};
use serde_json::{Map, Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{ArtifactView, JobDetail, JobView, TokenizeResult},
};

use crate::{
    lora_files,
    support::{device, device_is, uploaded},
};

/// An agent whose runner has a library; none without one.
#[expect(clippy::print_stdout, reason = "tests/run counts what says that it was skipped")]
pub(crate) fn with_library(farm: &Farm) -> Option<AgentSettings> {
    let Some(library) = std::env::var_os("MODELYARD_ONNXRUNTIME").filter(|path| !path.is_empty()) else {
        println!("skipped: no ONNX Runtime library (MODELYARD_ONNXRUNTIME)");
        return None;
    };
    let mut settings = farm.agent("a");
    settings.more.extend(["--onnxruntime".to_owned(), library.to_string_lossy().into_owned()]);
    settings.more.extend(["--threads".to_owned(), "1".to_owned()]);
    Some(settings)
}

pub(crate) fn make_models(farm: &Farm, arch: &str, layout: &str) {
    make_models_of(farm, arch, layout, "fp16");
}

pub(crate) fn make_models_of(farm: &Farm, arch: &str, layout: &str, dtype: &str) {
    let made = std::process::Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", arch, "--layout", layout, "--dtype", dtype, "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A safetensors file of 32-bit floats.
pub(crate) fn tensors(all: &[(&str, &[usize], Vec<f32>)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in all {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header
            .insert((*name).to_owned(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// The tensors of 32-bit floats of such a file.
pub(crate) fn read(bytes: &[u8]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let one = |(name, facts): (String, Value)| {
        let at = |index: usize| facts["data_offsets"][index].as_u64().unwrap() as usize;
        let shape = facts["shape"].as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize).collect();
        let values = data[at(0)..at(1)].chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        (name, shape, values.collect())
    };
    header.into_iter().filter(|(_, facts)| facts["dtype"] == "F32").map(one).collect()
}

pub(crate) fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at as f32 * 0.37).sin()).collect()
}

/// Submits work and waits for its success.
pub(crate) async fn done(farm: &Farm, path: &str, body: Value) -> JobDetail {
    let job = farm.api.submit(path, body).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await
}

pub(crate) async fn artifact(farm: &Farm, job: &JobDetail, name: &str) -> Vec<u8> {
    let path = format!("/v1/jobs/{}/artifacts/{name}", job.job.id);
    let answer = farm.api.request(reqwest::Method::GET, &path).send().await.unwrap();
    let status = answer.status();
    let bytes = answer.bytes().await.unwrap().to_vec();
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&bytes));
    bytes
}

pub(crate) fn result(job: &JobDetail) -> &Value {
    job.job.result.as_ref().unwrap()
}

/// A decoding takes what an encoding left; one file and a folder with the same weights give the same bytes.
#[tokio::test]
async fn a_vae_encodes_and_decodes_whatever_the_layout_of_its_files() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15", "both");
    let _agent = farm.agent_with_library(settings).await;
    let image = tensors(&[("image", &[1, 3, 64, 96], wave(3 * 64 * 96))]);
    let image = uploaded(&farm, image).await;
    let mut pictures = Vec::new();
    for model in ["sd15-tiny", "sd15-tiny-diffusers"] {
        let body = json!({ "model": model, "image": { "upload": image.id } });
        let encoded = done(&farm, "/v1/vae/encode", body).await;
        assert_eq!(result(&encoded)["artifacts"], json!(["latents.safetensors"]), "{encoded:?}");
        let latents = read(&artifact(&farm, &encoded, "latents.safetensors").await);
        assert_eq!((latents[0].0.as_str(), &latents[0].1[..]), ("latents", &[1, 4, 8, 12][..]));
        assert!(latents[0].2.iter().all(|value| value.is_finite()));
        let from = json!({ "artifact": { "job": encoded.job.id, "name": "latents.safetensors" } });
        let decoded = done(&farm, "/v1/vae/decode", json!({ "model": model, "latents": from })).await;
        let told = result(&decoded);
        assert_eq!(
            (&told["shape"], &told["architecture"]),
            (&json!([1, 3, 64, 96]), &json!("AutoencoderKL")),
            "{told}"
        );
        assert!(told["estimated_bytes"].as_u64().unwrap() > 0 && told["components"][0]["kind"] == "vae", "{told}");
        let tiles = json!({ "size": 64 });
        let tiled =
            json!({ "model": model, "latents": from, "settings": { "tiling": tiles }, "format": "safetensors" });
        assert!(result(&done(&farm, "/v1/vae/decode", tiled).await)["tiling"]["tiles"].as_u64().unwrap() > 1);
        pictures.push(artifact(&farm, &decoded, "image-0.png").await);
    }
    assert!(pictures[0].starts_with(b"\x89PNG"));
    assert!(pictures[0] == pictures[1], "the same weights, another layout");

    // a name that no database stores ends its job and holds nothing up
    let hostile = uploaded(&farm, tensors(&[("a\0b", &[1], wave(1))])).await;
    let body = json!({ "model": "sd15-tiny", "latents": { "upload": hostile.id } });
    let job = farm.api.submit("/v1/vae/decode", body).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error");
    assert!(error.message.contains("a\u{fffd}b"), "{error:?}");
    farm.assert_ledger_is_clean().await;
}

/// States of a text go into a step of the UNet; each fault of a request is named.
#[tokio::test]
async fn texts_are_encoded_and_a_unet_predicts_from_them() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15,sdxl", "diffusers");
    let _agent = farm.agent_with_library(settings).await;
    let body = json!({ "model": "sd15-tiny-diffusers", "prompts": ["a (cat:1.3)"], "negative": "a dog" });
    let encoded = done(&farm, "/v1/encode", body.clone()).await;
    let states = read(&artifact(&farm, &encoded, "embeddings.safetensors").await);
    let of = |states: &[(String, Vec<usize>, Vec<f32>)], output: &str| {
        states.iter().find(|(name, _, _)| name == output).unwrap_or_else(|| panic!("no {output}")).2.clone()
    };
    let [last, hidden, penultimate] =
        ["last", "hidden", "penultimate"].map(|output| of(&states, &format!("text_encoder.{output}")));
    assert!(last == hidden && last != penultimate, "the UNet of SD 1.5 takes the last states");
    let told = result(&encoded);
    assert_eq!(told["embedding_cache"], json!({ "hits": 0, "misses": 4 }), "two chunks at two layers: {told}");
    assert!(told["estimated_bytes"].as_u64() > Some(0) && told["peak_bytes"].as_u64() > Some(0), "{told}");
    let again = done(&farm, "/v1/encode", body).await;
    assert_eq!(result(&again)["embedding_cache"], json!({ "hits": 4, "misses": 0 }), "{again:?}");
    assert_eq!(read(&artifact(&farm, &again, "embeddings.safetensors").await), states, "kept bit by bit");
    let (_, shape, values) = states.iter().find(|(name, _, _)| name == "text_encoder.last").expect("last states");
    assert_eq!(&shape[..2], [2, 77], "the prompt and the negative one");
    let given = |timestep: f32| {
        tensors(&[
            ("sample", &[2, 4, 8, 8], wave(512)),
            ("timestep", &[1], vec![timestep]),
            ("encoder_hidden_states", &shape[..], values.clone()),
        ])
    };
    let inputs = uploaded(&farm, given(500.0)).await;
    let step = |scale: Value| json!({ "model": "sd15-tiny-diffusers", "inputs": { "upload": inputs.id }, "guidance_scale": scale });
    let both = done(&farm, "/v1/unet/step", step(Value::Null)).await;
    let told = result(&both);
    assert!(told["estimated_bytes"].as_u64() > Some(0) && told["peak_bytes"].as_u64() > Some(0), "{told}");
    let both = read(&artifact(&farm, &both, "prediction.safetensors").await);
    assert_eq!(both[0].1, [2, 4, 8, 8]);
    let guided = done(&farm, "/v1/unet/step", step(json!(3.0))).await;
    let guided = read(&artifact(&farm, &guided, "prediction.safetensors").await);
    let (without, with) = both[0].2.split_at(256);
    let expected: Vec<f32> = without.iter().zip(with).map(|(u, c)| u + 3.0 * (c - u)).collect();
    assert_eq!((&guided[0].1[..], &guided[0].2), (&[1, 4, 8, 8][..], &expected));

    let wrong = json!({ "model": "sdxl-tiny-diffusers", "inputs": { "upload": inputs.id } });
    let job = farm.api.submit("/v1/unet/step", wrong).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error");
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error:?}");

    let body = json!({ "model": "sdxl-tiny-diffusers", "prompts": ["x"], "outputs": ["pooled", "projected"] });
    let pair = done(&farm, "/v1/encode", body).await;
    let names: Vec<String> =
        read(&artifact(&farm, &pair, "embeddings.safetensors").await).into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(names, ["text_encoder.pooled", "text_encoder_2.pooled", "text_encoder_2.projected"]);

    // the second tokenizer reads each of them as its padding, the first one words of many
    let body = json!({ "model": "sdxl-tiny-diffusers", "prompts": ["!".repeat(80)] });
    let pair = read(&artifact(&farm, &done(&farm, "/v1/encode", body).await, "embeddings.safetensors").await);
    for encoder in ["text_encoder", "text_encoder_2"] {
        let (_, shape, _) = pair.iter().find(|(name, _, _)| *name == format!("{encoder}.hidden")).expect("states");
        assert_eq!(shape[1], 154, "both have two chunks");
        let [hidden, penultimate] = ["hidden", "penultimate"].map(|output| of(&pair, &format!("{encoder}.{output}")));
        assert!(hidden == penultimate, "the UNet of SDXL takes the penultimate states");
    }

    let tokens = async |body: Value| -> TokenizeResult {
        serde_json::from_value(result(&done(&farm, "/v1/tokenize", body).await).clone()).unwrap()
    };
    let shipped = tokens(json!({ "texts": ["a cat"] })).await.tokenizers;
    assert_eq!((shipped[0].name.as_str(), &shipped[0].texts[0].ids[..]), ("clip", &[320, 2368][..]));
    let own = tokens(json!({ "model": "sdxl-tiny-diffusers", "texts": ["a cat"] })).await.tokenizers;
    let names: Vec<&str> = own.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["text_encoder", "text_encoder_2"]);
    let cut = tokens(json!({ "texts": ["a dog BREAK a (cat:1.2)"], "weights": true })).await.tokenizers;
    assert_eq!((cut[0].texts[0].chunks, &cut[0].texts[0].chunk_lengths[..]), (2, &[2, 2][..]));
}

fn long_generation(steps: u32) -> Value {
    json!({ "model": "sd15-tiny-diffusers", "prompt": "a cat", "steps": steps, "seed": 7, "width": 64, "height": 64 })
}

/// The encoder of a tiny autoencoder as its authors released it: a file of its own, with numbers for names.
fn encoder_alone(whole: &Path, target: &Path) {
    let half = lora_files::read(whole).into_iter().filter_map(|tensor| {
        let name = tensor.name.strip_prefix("encoder.layers.")?.to_owned();
        Some(lora_files::Entry { name, ..tensor })
    });
    lora_files::write(target, &half.collect::<Vec<_>>());
}

async fn denoising(farm: &Farm, job: &JobView) -> JobDetail {
    let is_denoising = |seen: &JobDetail| {
        let progress = seen.job.progress.as_ref();
        progress.is_some_and(|progress| progress.phase == "denoising" && progress.bytes_done > 0)
    };
    farm.api.job_is(job.id, "denoising goes on", LONG, is_denoising).await
}

/// One seed makes one picture, with the parameters inside; previews are seen before the end.
#[tokio::test]
async fn a_prompt_becomes_a_picture_that_its_seed_makes_again() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15,sdxl,taesd", "diffusers");
    let tiny = farm.library().join("taesd-tiny-diffusers/diffusion_pytorch_model.safetensors");
    encoder_alone(&tiny, &farm.library().join("taesdxl.safetensors"));
    // what a model's own config asks for is done and told
    let scheduler = farm.library().join("sdxl-tiny-diffusers/scheduler/scheduler_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&scheduler).unwrap()).unwrap();
    config["use_karras_sigmas"] = json!(true);
    std::fs::write(&scheduler, config.to_string()).unwrap();
    let _agent = farm.agent_with_library(settings).await;
    for model in ["sd15-tiny-diffusers", "sdxl-tiny-diffusers"] {
        let body = |seed: u64, more: Value| {
            let mut body = json!({
                "model": model, "prompt": "a cat", "steps": 4, "seed": seed, "width": 64, "height": 64, "sampler": "dpmpp_2m",
            });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let first = done(&farm, "/v1/generate", body(7, json!({ "keep_latents": true }))).await;
        assert_eq!(result(&first)["artifacts"], json!(["image-0.png", "latents.safetensors"]), "{first:?}");
        let picture = artifact(&farm, &first, "image-0.png").await;
        let has = |text: &[u8]| picture.windows(text.len()).any(|window| window == text);
        assert!(picture.starts_with(b"\x89PNG") && has(b"Seed: 7") && has(b"Sampler: DPM++ 2M"));
        assert_eq!(has(b"Schedule type: Karras"), model.starts_with("sdxl"));
        let latents = read(&artifact(&farm, &first, "latents.safetensors").await);
        assert_eq!(latents.len(), 5, "each step and the last");
        let again = done(&farm, "/v1/generate", body(7, json!({ "priority": 1 }))).await;
        let again = artifact(&farm, &again, "image-0.png").await;
        assert!(again == picture, "{model}: one seed, two pictures");
        let other = done(&farm, "/v1/generate", body(8, json!({ "batch": 2, "format": "webp" }))).await;
        assert_eq!(result(&other)["artifacts"], json!(["image-0.webp", "image-1.webp"]));
    }
    told_as_made(&farm).await;
    // the tiny autoencoders are chosen by the names that they were released under
    let previewed = async |model: &str| {
        let body = json!({
            "model": model, "prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64, "preview_every": 1,
        });
        result(&done(&farm, "/v1/generate", body).await)["preview"].clone()
    };
    assert_eq!(previewed("sd15-tiny-diffusers").await, json!({ "decoder": "taesd-tiny-diffusers", "without": null }));
    let without = previewed("sdxl-tiny-diffusers").await;
    assert!(without["decoder"].is_null(), "{without}");
    assert_eq!(without["without"], "model `taesdxl` has no decoder", "it is not missed");
    let mut named = long_generation(400);
    (named["preview_every"], named["preview_vae"]) = (json!(1), json!("taesdxl"));
    let job = farm.api.submit("/v1/generate", named).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error");
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Unsupported, "model `taesdxl` has no decoder"));
    let mut shown = long_generation(400);
    shown["preview_every"] = json!(1);
    shown["preview_vae"] = json!("taesd-tiny-diffusers");
    let job = farm.api.submit("/v1/generate", shown).await;
    wait_for("a preview", LONG, || async {
        let all: Vec<ArtifactView> = farm.api.list(&format!("/v1/jobs/{}/artifacts", job.id)).await;
        if all.iter().any(|artifact| artifact.preview) { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
    let preview = artifact(&farm, &farm.api.job(job.id).await, "preview-0.png").await;
    assert_eq!(preview[16..24], [0, 0, 0, 64, 0, 0, 0, 64], "the tiny autoencoder's size, not the latents'");
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
}

/// First noise comes as a file, brackets may be text, and what of a run's models took memory is told.
async fn told_as_made(farm: &Farm) {
    let given = tensors(&[("noise", &[1, 4, 8, 8], wave(256))]);
    std::fs::write(farm.library().join("noise.safetensors"), &given).unwrap();
    let upload = uploaded(farm, given).await;
    let mut pictures = Vec::new();
    for noise in [json!({ "root": "main", "path": "noise.safetensors" }), json!({ "upload": upload.id }), Value::Null] {
        let mut body = long_generation(2);
        body["noise"] = noise;
        let made = done(farm, "/v1/generate", body).await;
        let told = result(&made);
        for of in [told, &told["encode"], &told["denoise"], &told["decode"]] {
            // what was encoded before is kept
            assert!(of.is_null() || of["estimated_bytes"].as_u64() > Some(0), "{told}");
        }
        assert!(told["denoise"].is_object() && told["decode"].is_object(), "{told}");
        pictures.push(artifact(farm, &made, "image-0.png").await);
    }
    assert!(pictures[0] == pictures[1] && pictures[0] != pictures[2], "the file is the noise");

    let mut read = long_generation(2);
    read["prompt"] = json!("a (cat:1.4)");
    let mut written = read.clone();
    written["weights"] = json!(false);
    let read = artifact(farm, &done(farm, "/v1/generate", read).await, "image-0.png").await;
    let written = artifact(farm, &done(farm, "/v1/generate", written).await, "image-0.png").await;
    assert!(read != written, "brackets are text");
}

/// A model that brings no VAE takes the one of its family that the host has; without one it says what is missing.
#[tokio::test]
async fn a_model_without_vae_takes_one_of_its_family() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15", "diffusers");
    let vae = farm.library().join("sd15-tiny-diffusers/vae");
    std::fs::rename(&vae, farm.path("elsewhere")).unwrap();
    let _agent = farm.agent_with_library(settings).await;
    let job = farm.api.submit("/v1/generate", long_generation(2)).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error");
    assert_eq!(error.code, ErrorCode::Unsupported, "{error:?}");
    assert!(error.message.contains("has none that is known to be for `sd15`"), "{error:?}");

    std::fs::rename(farm.path("elsewhere"), farm.library().join("decoder")).unwrap();
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let made = done(&farm, "/v1/generate", long_generation(2)).await;
    assert_eq!(result(&made)["vae"], "decoder", "{made:?}");
    assert!(artifact(&farm, &made, "image-0.png").await.starts_with(b"\x89PNG"));
}

/// What a run reads stays on the device until it ends; a cancel reaches inside; a runner that dies costs the job an attempt.
#[tokio::test]
async fn a_run_holds_its_model_can_be_cancelled_and_survives_its_runner() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15", "diffusers");
    let agent = farm.agent_with_library(settings).await;
    let job = farm.api.submit("/v1/generate", long_generation(1000)).await;
    denoising(&farm, &job).await;
    let refused = farm.api.post("/v1/models/sd15-tiny-diffusers/unload", &json!({})).await;
    assert!(
        refused.status == 409 && refused.text.contains("in use on `a/cpu:0`"),
        "{}: {}",
        refused.status,
        refused.text
    );
    let waits = json!({ "wait_for_jobs": true });
    let unload = farm.api.submit("/v1/models/sd15-tiny-diffusers/unload", waits).await;
    let before = device(&farm, "a/cpu:0").await;
    assert_eq!(before.resident.len(), 3, "what a run reads stays: {before:?}");
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cpu:0", "empty", |view| view.resident.is_empty() && view.memory_used_bytes == 0).await;

    // what a run taught is told with its answer
    let job = farm.api.submit("/v1/generate", long_generation(2)).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let job = farm.api.submit("/v1/generate", long_generation(120)).await;
    denoising(&farm, &job).await;
    agent.kill_runner().await;
    let ended = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(ended.attempts.len(), 2, "{ended:?}");
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    let learned = agent.runner_arguments().await.into_iter().skip_while(|word| word != "--learned").nth(1);
    let learned: Value = serde_json::from_str(&learned.expect("what runs took is remembered")).expect("JSON");
    assert!(!learned.as_object().expect("by graph").is_empty(), "{learned}");
    farm.assert_ledger_is_clean().await;
}

/// What is no number ends the job that meets it, with where it was seen; the runner goes on.
#[tokio::test]
async fn weights_that_are_no_numbers_end_their_job_and_no_other() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15", "diffusers");
    let whole = farm.library().join("sd15-tiny-diffusers/vae/diffusion_pytorch_model.safetensors");
    let broken = farm.library().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::copy(whole.with_file_name("config.json"), broken.join("config.json")).unwrap();
    let file = broken.join("diffusion_pytorch_model.safetensors");
    std::fs::copy(&whole, &file).unwrap();
    lora_files::spoil(&file, "decoder.conv_out.bias");
    let _agent = farm.agent_with_library(settings).await;
    let mut broken = long_generation(1);
    broken["vae"] = json!("broken");
    let job = farm.api.submit("/v1/generate", broken).await;
    let ended = farm.api.job_ended(job.id, JobState::Failed, LONG).await;
    let error = ended.job.error.expect("an error");
    assert_eq!((error.code, ended.attempts.len()), (ErrorCode::Corrupt, 1), "{error:?}");
    assert!(error.message.contains("`sample`") && error.message.contains("NaN"), "{error:?}");
    let made = done(&farm, "/v1/generate", long_generation(1)).await;
    assert!(artifact(&farm, &made, "image-0.png").await.starts_with(b"\x89PNG"));
    farm.assert_ledger_is_clean().await;
}

/// Weights are held without a library; work waits and says what is missing.
#[tokio::test]
async fn work_without_a_library_names_the_flag() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15", "diffusers");
    let mut settings = farm.agent("a");
    settings.more.extend(["--onnxruntime".to_owned(), "/nowhere/libonnxruntime.so".to_owned()]);
    let _agent = farm.agent_with_library(settings).await;
    let job = farm.api.submit("/v1/generate", long_generation(2)).await;
    wait_for("the job to say why it waits", LONG, || async {
        let reason = format!("{:?}", farm.api.job(job.id).await.job.reason);
        let is_told =
            ["no_runtime", "/nowhere/libonnxruntime.so", "--onnxruntime"].iter().all(|part| reason.contains(part));
        if is_told { Ok(()) } else { Err(reason) }
    })
    .await;
}
