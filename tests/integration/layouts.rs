//! One model in every layout and container: what runs from a PyTorch checkpoint, whole or as the parts of a folder, is to the bit
//! what runs from safetensors.
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use harness::{Farm, LONG, SHORT, wait_for};
use serde_json::{Value, json};
use shared::{job::JobState, wire::ModelDetail};

use crate::{
    engine::{artifact, done, make_models, make_models_of, read, tensors, wave, with_library},
    lora_files,
    support::{loaded, nothing_is_resident, uploaded},
    torch_files,
};

/// What a model gave, by what was asked.
type Given = BTreeMap<&'static str, Vec<u8>>;

/// The parts of a pipeline's folder, with the names that PyTorch's files have there.
const PARTS: [(&str, &str, &str); 3] = [
    ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    ("text_encoder", "model.safetensors", "pytorch_model.bin"),
];

/// Makes every part of a folder a PyTorch file.
fn to_torch(folder: &Path) {
    for (part, from, to) in PARTS {
        let from = folder.join(part).join(from);
        torch_files::write(&folder.join(part).join(to), &lora_files::read(&from));
        fs::remove_file(from).unwrap();
    }
}

async fn scanned(farm: &Farm) {
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
}

/// A VAE's two directions and a step of a UNet.
async fn without_text(farm: &Farm, model: &str) -> Given {
    let inputs = |all: &[(&str, &[usize], Vec<f32>)]| uploaded(farm, tensors(all));
    let image = inputs(&[("image", &[1, 3, 64, 64], wave(3 * 64 * 64))]).await;
    let latents = inputs(&[("latents", &[1, 4, 8, 8], wave(256))]).await;
    let states = ("encoder_hidden_states", &[1, 77, 32][..], wave(77 * 32));
    let step = inputs(&[("sample", &[1, 4, 8, 8], wave(256)), ("timestep", &[1], vec![500.0]), states]).await;
    let asked: [(&str, Value, &str); 3] = [
        ("vae/encode", json!({ "model": model, "image": { "upload": image.id } }), "latents.safetensors"),
        (
            "vae/decode",
            json!({ "model": model, "latents": { "upload": latents.id }, "format": "safetensors" }),
            "image.safetensors",
        ),
        ("unet/step", json!({ "model": model, "inputs": { "upload": step.id } }), "prediction.safetensors"),
    ];
    let mut given = Given::new();
    for (what, body, name) in asked {
        let job = done(farm, &format!("/v1/{what}"), body).await;
        given.insert(what, artifact(farm, &job, name).await);
    }
    given
}

/// The states of a prompt, and a picture's latents after each step.
async fn with_text(farm: &Farm, model: &str) -> Given {
    let mut given = without_text(farm, model).await;
    let encoded = done(farm, "/v1/encode", json!({ "model": model, "prompts": ["a (cat:1.3)"] })).await;
    given.insert("encode", artifact(farm, &encoded, "embeddings.safetensors").await);
    let body = json!({ "model": model, "prompt": "a cat", "steps": 3, "seed": 7, "width": 64, "height": 64, "keep_latents": true });
    let made = done(farm, "/v1/generate", body).await;
    // of the picture, whose file names the model, what it was decoded from
    given.insert("generate", artifact(farm, &made, "latents.safetensors").await);
    given
}

/// The digests of a loaded model's components.
async fn digests(farm: &Farm, model: &str) -> BTreeMap<String, String> {
    loaded(farm, model).await;
    let known = |model: ModelDetail| {
        let digests = model.components.into_iter().map(|part| Some((part.kind, part.digest?)));
        digests.collect::<Option<BTreeMap<_, _>>>()
    };
    wait_for("every digest to be known", LONG, || async {
        known(farm.model(model).await).ok_or_else(|| "not yet".to_owned())
    })
    .await
}

/// Takes a model out of the library and every byte of it out of memory: the next is read from its own files.
async fn gone(farm: &Farm, agent: &harness::Daemon, model: &str, path: PathBuf) {
    let unload = farm.api.submit(&format!("/v1/models/{model}/unload"), json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    fs::rename(&path, farm.path(model)).unwrap();
    scanned(farm).await;
    farm.api.delete("/v1/cache").await.accepted();
    nothing_is_resident(farm, agent, "a").await;
}

#[tokio::test]
async fn a_checkpoint_of_pytorch_gives_what_safetensors_give() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15", "both");
    let (library, single) = (farm.library(), farm.library().join("sd15-tiny.safetensors"));
    torch_files::write(&library.join("whole.ckpt"), &lora_files::read(&single));
    fs::remove_file(single).unwrap();
    let folder = library.join("sd15-tiny-diffusers");
    fs::rename(&folder, farm.path("folder")).unwrap();
    let agent = farm.agent_with_library(settings).await;

    assert_eq!(farm.model("whole").await.summary.format, "torch_zip");
    let whole = (without_text(&farm, "whole").await, digests(&farm, "whole").await);
    gone(&farm, &agent, "whole", library.join("whole.ckpt")).await;

    fs::rename(farm.path("folder"), &folder).unwrap();
    scanned(&farm).await;
    let plain = (with_text(&farm, "sd15-tiny-diffusers").await, digests(&farm, "sd15-tiny-diffusers").await);
    gone(&farm, &agent, "sd15-tiny-diffusers", folder).await;

    // states of prompts are kept in the runner by the encoder's digest: another runner encodes for itself
    agent.kill_runner().await;
    let parts = farm.path("sd15-tiny-diffusers");
    to_torch(&parts);
    fs::rename(parts, library.join("parts")).unwrap();
    scanned(&farm).await;
    let parts = (with_text(&farm, "parts").await, digests(&farm, "parts").await);

    assert_eq!(parts.1, plain.1, "the same weights, another container");
    for kind in ["unet", "vae", "text_encoder"] {
        assert_eq!(whole.1[kind], plain.1[kind], "{kind}");
    }
    for (what, bytes) in &plain.0 {
        assert!(parts.0[what] == *bytes, "{what} of the parts");
        assert!(whole.0.get(what).is_none_or(|given| given == bytes), "{what} of the whole");
    }
    assert_eq!((whole.0.len(), parts.0.len(), plain.0.len()), (3, 5, 5));
    farm.assert_ledger_is_clean().await;
}

/// Rounds a value to the nearest that bf16 has, ties to even.
fn rounded(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

/// The same tensors with their floats rounded, as bf16 or as 32-bit floats of those values.
fn halves(source: &[lora_files::Entry], stored: &str) -> Vec<lora_files::Entry> {
    let bytes = |value: f32| match stored {
        "BF16" => value.to_le_bytes()[2..].to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    let entry = |tensor: &lora_files::Entry| {
        if tensor.dtype != "F32" {
            return tensor.clone();
        }
        let values = tensor.bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        let bytes = values.flat_map(|value| bytes(rounded(value))).collect();
        lora_files::Entry { name: tensor.name.clone(), dtype: stored.to_owned(), shape: tensor.shape.clone(), bytes }
    };
    source.iter().map(entry).collect()
}

/// Weights keep 8 bits of their mantissas: each is off by 2⁻⁹ of itself at most, and these errors mostly cancel.
const ROUNDING: f32 = 2e-2;

#[tokio::test]
async fn a_file_of_bf16_gives_what_its_source_gives_within_rounding() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models_of(&farm, "sd15", "single", "fp32");
    let library = farm.library();
    let source = lora_files::read(&library.join("sd15-tiny.safetensors"));
    lora_files::write(&library.join("halves.safetensors"), &halves(&source, "BF16"));
    lora_files::write(&library.join("rounded.safetensors"), &halves(&source, "F32"));
    let _agent = farm.agent_with_library(settings).await;
    let plain = without_text(&farm, "sd15-tiny").await;
    let halves = without_text(&farm, "halves").await;
    let rounded = without_text(&farm, "rounded").await;
    assert!(halves == rounded, "equal values, whatever they are stored in");
    for (what, bytes) in &plain {
        let (wanted, found) = (read(bytes), read(&halves[what]));
        let (wanted, found) = (&wanted[0].2, &found[0].2);
        let range = wanted.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let pairs = wanted.iter().zip(found);
        let off = pairs.fold(0.0_f32, |most, (wanted, found)| most.max((wanted - found).abs() / range));
        assert!(off > 0.0 && off < ROUNDING, "{what} is off by {off:e}");
    }
    farm.assert_ledger_is_clean().await;
}
