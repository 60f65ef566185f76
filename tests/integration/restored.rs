//! What a restored pipeline leaves: bases with the bytes that they came with, also where something wrote into them, and pictures as
//! before. On a real ONNX Runtime (`MODELYARD_ONNXRUNTIME`; without it these stories say that they are skipped).
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use harness::Farm;
use reqwest::Method;
use serde_json::{Value, json};
use shared::wire::JobDetail;

use crate::{
    engine::{artifact, done, make_models, result, with_library},
    lora_files,
    variants::{bases, pixels},
};

const DEVICE: &str = "a/cpu:0";

async fn declare(farm: &Farm, name: &str, body: Value) {
    let declared = farm.api.request(Method::PUT, &format!("/v1/pipelines/{name}")).json(&body);
    assert_eq!(farm.api.send(declared).await.status, 201);
}

async fn pipeline_job(farm: &Farm, name: &str, what: &str, body: Value) -> JobDetail {
    done(farm, &format!("/v1/pipelines/{name}/{what}"), body).await
}

async fn picture(farm: &Farm, of: (&str, &str), side: u32) -> Vec<u8> {
    let (key, name) = of;
    let body = json!({ key: name, "prompt": "a cat", "steps": 2, "seed": 7, "width": side, "height": side });
    artifact(farm, &done(farm, "/v1/generate", body).await, "image-0.png").await
}

/// Writes one other byte into a runner's memory of a tensor with these bytes, wherever a device file of its holds them: how many.
fn corrupt(runner: u32, tensor: &[u8]) -> usize {
    let mut written = 0;
    for entry in fs::read_dir(format!("/proc/{runner}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let is_slab = fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().contains("modelyard-device"));
        if !is_slab {
            continue;
        }
        // descriptors come and go while the runner works
        let Ok(bytes) = fs::read(&path) else { continue };
        let Some(at) = bytes.windows(tensor.len()).position(|window| window == tensor) else { continue };
        let slab: File = OpenOptions::new().write(true).open(&path).unwrap();
        slab.write_all_at(&[!bytes[at + 1]], at as u64 + 1).unwrap();
        written += 1;
    }
    written
}

/// How many components of a job's checks ended so.
fn checks(job: &JobDetail, ended: &str) -> usize {
    result(job)["checks"].as_array().unwrap().iter().filter(|one| one["result"] == ended).count()
}

/// A byte of the base is changed behind everybody's back: a restore that verifies finds it, takes the copy off and loads it again, and so
/// does an apply. The pictures after it are those before it.
#[tokio::test]
async fn a_base_whose_bytes_changed_is_found_and_loaded_again() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15,lora-sd15", "diffusers");
    let agent = farm.agent_with_library(settings).await;
    let base = "sd15-tiny-diffusers";
    let stack = json!([{ "lora": "lora-sd15-tiny-diffusers", "weight": 0.8 }]);
    declare(&farm, "ink", json!({ "model": base, "loras": stack, "target": format!("device:{DEVICE}") })).await;
    pipeline_job(&farm, "ink", "apply", json!({ "verify": true })).await;
    let (plain, inked) = (picture(&farm, ("model", base), 64).await, picture(&farm, ("pipeline", "ink"), 64).await);
    assert!(pixels(&plain) != pixels(&inked));
    let unet = farm.library().join(base).join("unet/diffusion_pytorch_model.safetensors");
    let tensors = lora_files::read(&unet);
    // a tensor that no LoRA touches: variants read it where the base has it
    let tensor = &tensors.iter().find(|tensor| tensor.name == "conv_in.weight").unwrap().bytes;
    let runner = agent.runner().await;
    let different = async || agent.metric("modelyard_restore_checks_total", "different").await;
    assert_eq!(different().await, 0.0);

    assert_eq!(corrupt(runner, tensor), 1, "one copy of the base is on the device");
    let there = bases(&crate::support::device(&farm, DEVICE).await);
    let restored = pipeline_job(&farm, "ink", "restore", json!({ "verify": true })).await;
    assert_eq!((checks(&restored, "different"), different().await), (1, 1.0), "{restored:?}");
    assert!(checks(&restored, "equal") > 0, "the text encoder is what it was: {restored:?}");
    assert_eq!(bases(&crate::support::device(&farm, DEVICE).await), there, "what was taken off is back");
    assert!(picture(&farm, ("model", base), 64).await == plain, "without the pipeline it is what it was");

    // nothing is left of it for the next to find; what changes while the pipeline is applied is found by the apply
    let applied = pipeline_job(&farm, "ink", "apply", json!({ "verify": true })).await;
    assert_eq!((checks(&applied, "different"), different().await), (0, 1.0), "{applied:?}");
    assert!(corrupt(runner, tensor) > 0);
    let applied = pipeline_job(&farm, "ink", "apply", json!({ "verify": true })).await;
    assert_eq!((checks(&applied, "different"), different().await), (1, 2.0), "{applied:?}");
    assert!(picture(&farm, ("pipeline", "ink"), 64).await == inked, "applied anew over the base as it was");
    let restored = pipeline_job(&farm, "ink", "restore", json!({ "verify": true })).await;
    assert_eq!((checks(&restored, "different"), different().await), (0, 2.0), "{restored:?}");
    farm.assert_ledger_is_clean().await;
}

fn make_with_seed(library: &Path, arch: &str, seed: &str) {
    let args = ["dev", "make-models", "--arch", arch, "--layout", "diffusers", "--seed", seed, "--out"];
    let made = Command::new(harness::binary("modelyard")).args(args).arg(library).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// SDXL with another model's VAE that works in tiles, another text encoder and a LoRA: applied it changes the picture, restored nothing
/// is left of it.
#[tokio::test]
async fn a_pipeline_with_another_vae_in_tiles_and_another_encoder_leaves_nothing_behind() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sdxl,lora-sdxl", "diffusers");
    make_with_seed(&farm.library(), "sd15", "5");
    let _agent = farm.agent_with_library(settings).await;
    let (base, other) = ("sdxl-tiny-diffusers", "sd15-tiny-diffusers");
    let tiles = json!({ "tiling": { "size": 64, "overlap": 0.25 } });
    let stack = json!([{ "lora": "lora-sdxl-tiny-diffusers", "weight": 0.7 }]);
    let target = format!("device:{DEVICE}");
    declare(&farm, "vae", json!({ "model": base, "vae": other, "target": target })).await;
    declare(&farm, "tiles", json!({ "model": base, "vae": other, "vae_settings": tiles, "target": target })).await;
    let all = json!({ "model": base, "vae": other, "vae_settings": tiles, "text_encoders": { "text_encoder": other },
        "loras": stack, "target": target });
    declare(&farm, "all", all).await;
    let plain = picture(&farm, ("model", base), 128).await;
    let mut seen = vec![pixels(&plain)];
    for name in ["vae", "tiles", "all"] {
        pipeline_job(&farm, name, "apply", json!({ "verify": true })).await;
        let with = picture(&farm, ("pipeline", name), 128).await;
        assert!(!seen.contains(&pixels(&with)), "`{name}` makes its own picture");
        seen.push(pixels(&with));
        let restored = pipeline_job(&farm, name, "restore", json!({ "verify": true })).await;
        let all = result(&restored)["checks"].as_array().unwrap().len();
        assert!(all > 0 && checks(&restored, "equal") == all, "{restored:?}");
        assert!(picture(&farm, ("model", base), 128).await == plain, "after `{name}` it is what it was");
    }
    farm.assert_ledger_is_clean().await;
}
