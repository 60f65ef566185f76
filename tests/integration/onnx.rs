//! A user's ONNX folder runs as it is: parts exported from the small pipeline of `tests/reference`, held against what torch and
//! diffusers made of the same weights (`golden/onnx/sd15`, `golden/engine/pipeline-sd15.safetensors`).
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::{Farm, LONG};
use serde_json::{Value, json};
use shared::{error::ErrorCode, job::JobState, wire::ValidationReport};

use crate::{
    corrections::{correct, settled},
    engine::{artifact, done, read, result, tensors, with_library},
    support::uploaded,
};

/// Of the range, for one run of a graph.
const STEP: f32 = 1e-5;
/// For a whole generation, as for all that is computed in 32 bits: each step's error goes into the next, guided seven and a half times (2.5e-6 came of it).
const GENERATION: f32 = 1e-4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden").join(name)
}

/// The numbers of `make_denoisers.py`: a Weyl sequence that begins at the name's hash, mixed as murmur3 ends.
fn uniform(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let seed = name.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..count as u32).map(move |at| {
        let mut word = at.wrapping_mul(2_654_435_761).wrapping_add(seed);
        word = (word ^ (word >> 16)).wrapping_mul(0x85EB_CA6B);
        word = (word ^ (word >> 13)).wrapping_mul(0xC2B2_AE35);
        f64::from(word ^ (word >> 16)) / 2_147_483_648.0 - 1.0
    })
}

/// An input, of variance 1.
fn input(name: &str, shape: &[usize]) -> Vec<f32> {
    uniform(name, shape.iter().product()).map(|value| (value * 3.0_f64.sqrt()) as f32).collect()
}

fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let inputs: usize = shape[1..].iter().product();
    let scaled = |value: f64| match shape.len() {
        1 if name.ends_with("weight") => 1.0 + 0.2 * value,
        1 => 0.2 * value,
        _ => value * (3.0 / inputs as f64).sqrt(),
    };
    uniform(name, shape.iter().product()).map(|value| scaled(value) as f32).collect()
}

/// Copies the folder and makes the weights beside its graphs.
fn make_folder(target: &Path, parts: &[&str]) {
    let source = golden("onnx/sd15");
    fs::create_dir_all(target.join("scheduler")).unwrap();
    for file in ["model_index.json", "scheduler/scheduler_config.json"] {
        fs::copy(source.join(file), target.join(file)).unwrap();
    }
    for part in parts {
        fs::create_dir_all(target.join(part)).unwrap();
        fs::copy(source.join(part).join("model.onnx"), target.join(part).join("model.onnx")).unwrap();
        let recipe = fs::read_to_string(source.join(part).join("weights.tsv")).unwrap();
        fs::write(target.join(part).join("weights.pb"), weights(&recipe)).unwrap();
    }
}

/// The bytes that a recipe says: offset, tensor, shape, whether it is transposed.
fn weights(recipe: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in recipe.lines() {
        let [offset, name, shape, order] = *line.split('\t').collect::<Vec<_>>() else { panic!("{line}") };
        let shape: Vec<usize> = shape.split(',').map(|side| side.parse().unwrap()).collect();
        let mut values = weight(name, &shape);
        if order == "transposed" {
            let (rows, columns) = (shape[0], shape[1]);
            values = (0..rows * columns).map(|at| values[(at % rows) * columns + at / rows]).collect();
        }
        bytes.resize(offset.parse().unwrap(), 0);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len());
    let range = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    assert!(worst <= bound * range, "off by {:e} of the range, {bound:e} allowed", worst / range);
}

/// The values of one tensor of a file.
fn values(file: &[u8], name: &str) -> Vec<f32> {
    read(file).into_iter().find(|(found, ..)| found == name).expect("a tensor of this name").2
}

async fn left(farm: &Farm, path: &str, body: Value, file: &str, tensor: &str) -> Vec<f32> {
    let job = done(farm, path, body).await;
    values(&artifact(farm, &job, file).await, tensor)
}

async fn refused(farm: &Farm, path: &str, body: Value) -> shared::error::ErrorBody {
    let job = farm.api.submit(path, body).await;
    farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error")
}

#[tokio::test]
async fn an_onnx_folder_runs_as_it_is() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    let all = ["unet", "text_encoder", "vae_decoder", "vae_encoder"];
    make_folder(&farm.library().join("graphs"), &all);
    make_folder(&farm.library().join("headless"), &all[1..]);
    let _agent = farm.agent_with_library(settings).await;
    // so narrow a text is of no family
    assert_eq!(correct(&farm, "graphs", json!({ "base": "sd15" })).await.summary.base, "sd15");
    settled(&farm, "graphs").await;

    // a whole generation, latents after every step
    let asked = json!({
        "model": "graphs", "prompt": "a photo of a cat, highly detailed", "negative_prompt": "blurry, ugly", "width": 64,
        "height": 64, "steps": 6, "guidance_scale": 7.5, "seed": 42, "keep_latents": true,
    });
    let latents = left(&farm, "/v1/generate", asked.clone(), "latents.safetensors", "latents").await;
    let expected = values(&fs::read(golden("engine/pipeline-sd15.safetensors")).unwrap(), "latents.0");
    assert_close(&latents, &expected[expected.len() - latents.len()..], GENERATION);

    parts_answer_as_torch_does(&farm).await;

    // what its parts do not allow is named
    let mut skipped = asked.clone();
    skipped["clip_skip"] = json!(1);
    let error = refused(&farm, "/v1/generate", skipped).await;
    assert!(error.code == ErrorCode::InvalidArgument && error.message.contains("clip_skip"), "{error:?}");
    let headless = json!({ "model": "headless", "prompt": "a cat", "width": 64, "height": 64, "steps": 1 });
    let problem = farm.api.post("/v1/generate", &headless).await.problem(415);
    assert!(problem.detail.contains("has no UNet"), "{problem:?}");
    let copy = json!({ "output": { "path": "copy.safetensors" } });
    let error = refused(&farm, "/v1/models/graphs/convert", copy).await;
    assert!(error.code == ErrorCode::Unsupported && error.message.contains("ONNX graph"), "{error:?}");

    // weights lie in the tiers, as those of any other model
    let job = farm.api.submit("/v1/models/graphs/validate", json!({ "level": "forward" })).await;
    let id = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await.job.result.unwrap()["validation"].clone();
    let report: ValidationReport =
        farm.api.get(&format!("/v1/models/graphs/validations/{}", id.as_str().unwrap())).await;
    let ran = report.findings.iter().filter(|finding| finding.code == "forward_ran").count();
    assert_eq!(ran, all.len(), "{report:?}");
    farm.assert_ledger_is_clean().await;
}

/// One run of each part.
async fn parts_answer_as_torch_does(farm: &Farm) {
    let answers = fs::read(golden("onnx/sd15/answers.safetensors")).unwrap();
    let inputs = tensors(&[
        ("sample", &[2, 4, 8, 8], input("sample", &[2, 4, 8, 8])),
        ("timestep", &[1], vec![981.0]),
        ("encoder_hidden_states", &[2, 77, 32], input("encoder_hidden_states", &[2, 77, 32])),
    ]);
    let step = json!({ "model": "graphs", "inputs": { "upload": uploaded(farm, inputs).await.id } });
    let found = left(farm, "/v1/unet/step", step, "prediction.safetensors", "prediction").await;
    assert_close(&found, &values(&answers, "prediction"), STEP);

    let latents = tensors(&[("latents", &[1, 4, 6, 10], input("latents", &[1, 4, 6, 10]))]);
    let latents = json!({ "upload": uploaded(farm, latents).await.id });
    let decode = json!({ "model": "graphs", "latents": latents, "format": "safetensors" });
    let found = left(farm, "/v1/vae/decode", decode, "image.safetensors", "image").await;
    assert_close(&found, &values(&answers, "decoded"), STEP);

    let image: Vec<f32> = input("image", &[1, 3, 64, 64]).into_iter().map(|value| value.clamp(-1.0, 1.0)).collect();
    let image = json!({ "upload": uploaded(farm, tensors(&[("image", &[1, 3, 64, 64], image)])).await.id });
    let found =
        left(farm, "/v1/vae/encode", json!({ "model": "graphs", "image": image }), "latents.safetensors", "latents")
            .await;
    assert_close(&found, &values(&answers, "encoded"), STEP);

    let encode = json!({ "model": "graphs", "prompts": ["a photo of a cat"] });
    let encoded = done(farm, "/v1/encode", encode).await;
    assert_eq!(result(&encoded)["encoders"][0]["shape"], json!([1, 77, 32]), "{encoded:?}");
}
