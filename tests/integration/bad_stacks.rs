//! LoRAs that cannot be used, where they are used: an image, a pipeline, a check, each over REST and with the command. Each is
//! refused with what is wrong with it, and the old state stands: the same copies, the same variants, the same pictures. Needs ONNX
//! Runtime (`MODELYARD_ONNXRUNTIME`; without it the story says that it is skipped).
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::fs;

use harness::{Daemon, Farm, LONG};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    pipeline::Standing,
    wire::{JobDetail, PipelineView},
};

use crate::{
    command_line::modelyard,
    engine::{done, make_models, result, with_library},
    lora_files::{self, Entry},
    support::{device, device_is, flip},
    variants::{MODEL, at, bases, paths, picture, pixels, request},
};

const DEVICE: &str = "a/cpu:0";

/// A farm with a model, LoRAs for it and for another family, and bad ones made of the good one.
async fn farm_with_bad_loras() -> Option<(Farm, Daemon)> {
    let farm = Farm::start().await;
    let agent = with_library(&farm)?;
    make_models(&farm, "sd15", "diffusers");
    make_models(&farm, "lora-sd15", "both");
    make_models(&farm, "lora-sdxl", "diffusers");
    let path = |name: &str| farm.library().join(format!("{name}.safetensors"));
    for name in ["nan", "rotten"] {
        fs::copy(path("lora-sd15-tiny"), path(name)).unwrap();
    }
    lora_files::spoil(&path("nan"), "lora_down.weight");
    let good = lora_files::read(&path("lora-sd15-tiny"));
    let mut silent = good.clone();
    silent.iter_mut().filter(|tensor| tensor.name.ends_with(".alpha")).for_each(|alpha| alpha.bytes.fill(0));
    lora_files::write(&path("silent"), &silent);
    lora_files::write(&path("wide"), &wide(&good));
    // other weights than the good one's, whose bytes would else be its own
    let end = fs::metadata(path("rotten")).unwrap().len();
    flip(&path("rotten"), end - 8);
    let agent = farm.agent_with_library(agent).await;
    // a bit goes bad once its digest is registered
    let hash = json!({ "kind": "hash", "args": { "model": "rotten" } });
    let hash = farm.api.submit("/v1/jobs", hash).await;
    farm.api.job_ended(hash.id, JobState::Succeeded, LONG).await;
    flip(&path("rotten"), end - 16);
    Some((farm, agent))
}

/// One module of the LoRA with a rank far beyond both of its sides.
fn wide(good: &[Entry]) -> Vec<Entry> {
    const RANK: usize = 5000;
    let down = good.iter().find(|tensor| tensor.name.ends_with("attn1_to_q.lora_down.weight")).unwrap();
    let stem = down.name.trim_end_matches(".lora_down.weight");
    let up = good.iter().find(|tensor| tensor.name == format!("{stem}.lora_up.weight")).unwrap();
    let numbers = || (0_usize..).map(|at| (f32::from(u8::try_from(at % 17).unwrap()) - 8.0) * 1e-2);
    vec![
        Entry::new(&down.name, &[RANK, down.shape[1]], numbers()),
        Entry::new(&up.name, &[up.shape[0], RANK], numbers()),
        Entry::new(&format!("{stem}.alpha"), &[], std::iter::once(5000.0)),
    ]
}

/// Copies and variants on the device, with the pipelines that use these.
async fn there(farm: &Farm) -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let view = device(farm, DEVICE).await;
    let variants = view.variants.iter().map(|one| (one.variant.id.to_string(), one.variant.pipelines.clone()));
    (bases(&view), variants.collect())
}

fn one(lora: &str) -> Value {
    json!([{ "lora": lora, "weight": 1.0 }])
}

/// The code and the text of the error that a job ends with.
async fn failed(farm: &Farm, path: &str, body: Value) -> (ErrorCode, String) {
    let job = farm.api.submit(path, body).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.unwrap();
    (error.code, serde_json::to_string(&error).unwrap())
}

async fn declare(farm: &Farm, name: &str, loras: Value) -> PipelineView {
    let body = json!({ "model": MODEL, "loras": loras, "target": format!("device:{DEVICE}") });
    let answer = farm.api.send(farm.api.request(Method::PUT, &format!("/v1/pipelines/{name}")).json(&body)).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    answer.json()
}

/// Runs the command; its output and notes.
async fn command(farm: &Farm, words: &str, code: i32) -> String {
    let folder = farm.path("cli");
    fs::create_dir_all(&folder).unwrap();
    let api = farm.api.url().to_owned();
    let mut arguments = vec!["--api", &api];
    arguments.extend(words.split(' '));
    modelyard(&folder, &arguments, LONG).await.with(code)
}

#[tokio::test]
async fn a_bad_lora_is_refused_wherever_it_is_used_and_the_old_state_stands() {
    let Some((farm, _agent)) = farm_with_bad_loras().await else { return };
    let (plain, _) = picture(&farm, json!([])).await;
    let (strong, _) = picture(&farm, at(1.0)).await;
    declare(&farm, "ink", at(1.0)).await;
    done(&farm, "/v1/pipelines/ink/apply", json!({})).await;
    let before = there(&farm).await;
    assert!(before.1.iter().any(|(_, pipelines)| pipelines == &["ink"]), "{before:?}");

    let file = farm.path("x.png");
    for (lora, code, exit, says) in [
        ("lora-sdxl-tiny-diffusers", ErrorCode::InvalidArgument, 2, "is not for model"),
        ("nan", ErrorCode::Corrupt, 8, "not finite"),
        ("rotten", ErrorCode::Corrupt, 8, "with digest"),
    ] {
        let is_it =
            |(found, text): &(ErrorCode, String)| assert!(*found == code && text.contains(says), "{lora}: {text}");
        is_it(&failed(&farm, "/v1/generate", request(one(lora))).await);
        let image =
            format!("generate {MODEL} cat --steps 1 --width 64 --height 64 --lora {lora} -o {}", file.display());
        let said = command(&farm, &image, exit).await;
        assert!(said.contains(says) && !file.exists(), "{lora}: {said}");

        // a pipeline of its own, and one that is applied and gets it
        declare(&farm, "bad", one(lora)).await;
        is_it(&failed(&farm, "/v1/pipelines/bad/apply", json!({ "dry_run": true })).await);
        let said = command(&farm, "pipelines apply bad", exit).await;
        assert!(said.contains(says), "{lora}: {said}");
        let generation = declare(&farm, "ink", one(lora)).await.generation;
        is_it(&failed(&farm, "/v1/pipelines/ink/apply", json!({})).await);
        let view: PipelineView = farm.api.get("/v1/pipelines/ink").await;
        let on = &view.devices[0];
        assert_eq!((on.state, on.wanted_generation), (Standing::Failed, generation), "{view:?}");
        assert!(on.applied_generation < Some(generation) && on.error.as_ref().map(|error| error.code) == Some(code));

        let check = format!("loras check {lora} {MODEL}");
        if code == ErrorCode::InvalidArgument {
            let body = json!({ "lora": lora, "base": MODEL });
            assert_eq!(result(&done(&farm, "/v1/loras/check", body).await)["fits"], false);
        } else {
            is_it(&failed(&farm, "/v1/loras/check", json!({ "lora": lora, "base": MODEL })).await);
            command(&farm, &check, exit).await;
        }
        assert_eq!(there(&farm).await, before, "{lora}");
        let (again, job) = picture(&farm, at(1.0)).await;
        assert!(again == strong && paths(&job).values().all(|path| path == "cached"), "{lora}: {job:?}");
        farm.api.delete("/v1/pipelines/bad?force=true").await;
    }

    // what has no effect is named, and what is wide is a LoRA like any other
    let loras_without = |job: &JobDetail| result(job)["loras_without_effect"][0]["lora"].clone();
    let (silent, job) = picture(&farm, one("silent")).await;
    assert!(pixels(&silent) == pixels(&plain) && loras_without(&job) == "silent", "{job:?}");
    declare(&farm, "still", one("silent")).await;
    let job = done(&farm, "/v1/pipelines/still/apply", json!({})).await;
    assert!(loras_without(&job) == "silent" && there(&farm).await == before, "{job:?}");
    let (wide, _) = picture(&farm, one("wide")).await;
    assert!(pixels(&wide) != pixels(&plain), "it changes the picture");
    declare(&farm, "ink", at(1.0)).await;
    let job = done(&farm, "/v1/pipelines/ink/apply", json!({ "verify": true })).await;
    assert!(paths(&job).values().all(|path| path == "cached"), "{job:?}");
    done(&farm, "/v1/pipelines/ink/restore", json!({ "verify": true })).await;
    device_is(&farm, DEVICE, "no pipeline", |view| view.variants.iter().all(|one| one.variant.pipelines.is_empty()))
        .await;
    assert!(picture(&farm, json!([])).await.0 == plain && picture(&farm, at(1.0)).await.0 == strong);
    farm.assert_ledger_is_clean().await;
}
