//! Models that are run to be looked at: benchmarks with history and comparison, and validations that run every component.
//! Needs ONNX Runtime (`MODELYARD_ONNXRUNTIME`); without it these stories say that they are skipped.

use std::{fs, path::Path, process::Command};

use harness::{AgentSettings, Farm, LONG, SHORT, binary};
use serde_json::{Value, json};
use shared::{
    ids::BenchmarkId,
    job::JobState,
    wire::{BenchmarkReport, BenchmarkSummary, Comparison, ValidationReport},
};

/// The agent with the library; none where there is none.
#[expect(clippy::print_stdout, reason = "a story that is skipped says so")]
fn agent(farm: &Farm) -> Option<AgentSettings> {
    match std::env::var_os("MODELYARD_ONNXRUNTIME").filter(|path| !path.is_empty()) {
        Some(path) => Some(farm.agent("a").option("--onnxruntime", &path.to_string_lossy())),
        None => {
            println!("skipped: no ONNX Runtime library (MODELYARD_ONNXRUNTIME)");
            None
        }
    }
}

/// A tiny checkpoint `sd15-tiny`, also as a folder with its tokenizer, a preview decoder and a LoRA.
fn models(folder: &Path) {
    for what in [["--arch", "sd15,taesd,lora-sd15", "--layout", "single"], ["--arch", "sd15", "--layout", "diffusers"]]
    {
        let mut command = Command::new(binary("modelyard"));
        command.args(["dev", "make-models", "--dtype", "fp32"]).args(what).arg("--out").arg(folder);
        let made = command.output().expect("the command runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

fn quick(more: Value) -> Value {
    let limits = json!({ "warmup_runs": 1, "window_runs": 2, "windows": 2, "spread_percent": 100, "max_runs": 12, "max_seconds": 60 });
    let mut request = json!({ "limits": limits, "sizes": ["64x64"], "loads": 2 });
    if let (Some(into), Some(more)) = (request.as_object_mut(), more.as_object()) {
        into.extend(more.clone());
    }
    request
}

async fn measured(farm: &Farm, model: &str, request: Value) -> BenchmarkReport {
    let job = farm.api.submit(&format!("/v1/models/{model}/benchmark"), request).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.expect("a result")["benchmark"].as_str().expect("an id").to_owned();
    farm.api.get(&format!("/v1/benchmarks/{id}")).await
}

async fn forward(farm: &Farm, model: &str) -> ValidationReport {
    let job = farm.api.submit(&format!("/v1/models/{model}/validate"), json!({ "level": "forward" })).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.expect("a result")["validation"].as_str().expect("an id").to_owned();
    farm.api.get(&format!("/v1/models/{model}/validations/{id}")).await
}

/// (code, component) of what was run, or was not.
fn runs(report: &ValidationReport) -> Vec<(&str, &str)> {
    let ran = report.findings.iter().filter(|finding| finding.code.starts_with("forward"));
    ran.map(|finding| (finding.code.as_str(), finding.component.as_deref().unwrap_or_default())).collect()
}

/// Where a tensor's bytes begin in a safetensors file.
fn begin_of(bytes: &[u8], tensor: &str) -> usize {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let data = 8 + usize::try_from(length).expect("a size");
    let header: Value = serde_json::from_slice(&bytes[8..data]).expect("JSON");
    let begin = header[tensor]["data_offsets"][0].as_u64().expect("an offset");
    data + usize::try_from(begin).expect("a size")
}

#[tokio::test]
async fn a_benchmark_measures_loads_and_runs_and_is_compared_with_the_last() {
    let farm = Farm::start().await;
    let Some(agent) = agent(&farm) else { return };
    models(&farm.library());
    let _agent = farm.agent_with_library(agent).await;

    let first = measured(&farm, "sd15-tiny", quick(json!({ "cold": true, "baseline": "last" }))).await;
    assert_eq!(first.summary.device, "a/cpu:0");
    let operations: Vec<&str> = first.result.cases.iter().map(|case| case.operation.as_str()).collect();
    for operation in ["unet_step", "vae_decode", "vae_encode", "encode_text"] {
        assert!(operations.contains(&operation), "{operation} of {operations:?}: {:?}", first.result.skipped);
    }
    for case in &first.result.cases {
        assert!(case.first_run_seconds > 0.0 && case.items_per_second > 0.0, "{case:?}");
        assert!(case.peak_bytes.is_some_and(|bytes| bytes > 0), "{case:?}");
        assert!((4..=12).contains(&case.steady.seconds.len()), "{case:?}");
    }
    assert_eq!(first.result.loads.len(), 3, "{:?}", first.result.loads);
    for load in &first.result.loads {
        let [cold, warm] = [&load.cold, &load.warm].map(|series| series.as_ref().expect("measured"));
        assert_eq!((cold.seconds.len(), warm.seconds.len()), (2, 2));
    }
    assert!(first.comparison.is_none(), "there was none before it");
    let refused =
        farm.api.post("/v1/models/sd15-tiny/benchmark", &json!({ "baseline": BenchmarkId::generate() })).await;
    assert_eq!(refused.status, 404, "a baseline that is not there is refused at once: {}", refused.text);
    assert!(first.fingerprint.library.is_some() && first.fingerprint.memory_bytes > 0, "{:?}", first.fingerprint);

    let request = quick(json!({ "components": ["vae"], "batches": [1, 2], "loads": 0, "baseline": "last" }));
    let second = measured(&farm, "sd15-tiny", request).await;
    assert_eq!((second.summary.components.clone(), second.result.cases.len()), (vec!["vae".to_owned()], 4));
    let comparison = second.comparison.expect("the first is there");
    assert_eq!(comparison.before, first.summary.id);
    assert_eq!(comparison.cases.len(), 2, "{comparison:?}");
    assert!(comparison.differences.is_empty(), "{comparison:?}");
    assert_eq!(second.summary.verdict.as_deref(), Some(comparison.verdict.as_str()));

    // a part that was measured in between is not what the whole is compared with
    let third = measured(&farm, "sd15-tiny", quick(json!({ "loads": 0, "baseline": "last" }))).await;
    let comparison = third.comparison.expect("the first is there");
    assert_eq!((comparison.before, comparison.cases.len()), (first.summary.id, first.result.cases.len()));

    // what was loaded for a time stays, with its time
    let loaded =
        farm.api.submit("/v1/models/sd15-tiny/load", json!({ "components": ["vae"], "keep_alive": "10m" })).await;
    farm.api.job_ended(loaded.id, JobState::Succeeded, LONG).await;
    let kept = measured(&farm, "sd15-tiny", quick(json!({ "components": ["vae"] }))).await;
    assert!(kept.result.loads.is_empty() && kept.result.cases.len() == 2, "{kept:?}");
    assert!(
        kept.result.skipped.iter().any(|one| one.reason.contains("loaded for a time")),
        "{:?}",
        kept.result.skipped
    );

    let (a, b) = (first.summary.id, second.summary.id);
    let again: Comparison = farm.api.get(&format!("/v1/benchmarks/compare?a={b}&b={a}&bound_percent=1000")).await;
    assert_eq!((again.before, again.after, again.only_before.len()), (b, Some(a), 2));
    let listed: Vec<BenchmarkSummary> =
        farm.api.list("/v1/benchmarks?model=sd15-tiny&component=vae&pipeline=false").await;
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), [kept.summary.id, third.summary.id, b, a]);
    let picture = farm.api.ask(&format!("/v1/benchmarks/{a}/plot.svg")).await;
    assert!(picture.status == 200 && picture.header("content-type") == Some("image/svg+xml"), "{picture:?}");
    farm.assert_ledger_is_clean().await;
}

/// Whole generations of a model and of a pipeline: what has other steps is not compared, what has another VAE says so.
#[tokio::test]
async fn whole_generations_are_measured_and_compared_with_their_like() {
    let farm = Farm::start().await;
    let Some(agent) = agent(&farm) else { return };
    models(&farm.library());
    // a model that brings no VAE takes the one that the host has for its family
    let (whole, bare) = (farm.library().join("sd15-tiny-diffusers"), farm.library().join("bare"));
    copy(&whole, &bare);
    fs::rename(bare.join("vae"), farm.library().join("decoder")).expect("a rename");
    let _agent = farm.agent_with_library(agent).await;

    let steps = |steps: u32, more: Value| {
        let mut request = quick(json!({ "pipeline_steps": steps, "baseline": "last" }));
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        request
    };
    let model = "sd15-tiny-diffusers";
    let two = measured(&farm, model, steps(2, json!({}))).await;
    assert!(two.summary.pipeline && two.comparison.is_none(), "{two:?}");
    let [case] = two.result.cases.as_slice() else { panic!("{two:?}") };
    assert_eq!(case.label(), "generate 64x64 ×1 in 2 steps (pipeline)");
    assert!(case.peak_bytes.is_some_and(|bytes| bytes > 0) && case.estimated_bytes.is_some(), "{case:?}");
    let three = measured(&farm, model, steps(3, json!({}))).await;
    assert!(three.comparison.is_none(), "other steps are another thing: {three:?}");
    let other = measured(&farm, model, steps(2, json!({ "vae": "decoder" }))).await;
    let comparison = other.comparison.expect("two steps were measured before");
    assert_eq!((comparison.before, comparison.cases.len()), (two.summary.id, 1));
    let fields: Vec<&str> = comparison.differences.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["vae"], "{comparison:?}");

    let found = measured(&farm, "bare", steps(1, json!({}))).await;
    assert_eq!(found.result.cases.len(), 1, "{found:?}");
    assert_eq!(found.args["vae"], other.args["vae"], "the VAE that the host has for the family");

    // a pipeline brings its VAE and how that runs
    let pipeline = json!({ "model": model, "vae": "decoder", "vae_settings": { "tiling": { "size": 64 } } });
    let made = farm.api.request(reqwest::Method::PUT, "/v1/pipelines/tiled").json(&pipeline);
    let made = farm.api.send(made).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let job = farm.api.submit("/v1/pipelines/tiled/benchmark", steps(2, json!({ "sizes": ["128x128"] }))).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.expect("a result")["benchmark"].as_str().expect("an id").to_owned();
    let report: BenchmarkReport = farm.api.get(&format!("/v1/benchmarks/{id}")).await;
    assert_eq!(report.args["pipeline"], "tiled", "{report:?}");
    assert_eq!(report.args["vae_settings"], json!({ "tiling": { "size": 64, "overlap": 0.25 } }), "{report:?}");
    assert_eq!(report.result.cases.len(), 1, "{report:?}");
    let said = json!({ "vae_settings": { "slicing": true } });
    farm.api.post("/v1/pipelines/tiled/benchmark", &said).await.problem(400);
    farm.assert_ledger_is_clean().await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused_or_ends_with_the_reason() {
    let farm = Farm::start().await;
    let Some(agent) = agent(&farm) else { return };
    models(&farm.library());
    let _agent = farm.agent_with_library(agent).await;
    let post =
        async |model: &str, request: Value| farm.api.post(&format!("/v1/models/{model}/benchmark"), &request).await;
    let problem = post("sd15-tiny", json!({ "sizes": ["65x64"] })).await.problem(400);
    assert_eq!(problem.errors[0].pointer, "/sizes", "{problem:?}");
    post("sd15-tiny", json!({ "components": ["nose"] })).await.problem(400);
    post("lora-sd15-tiny", json!({})).await.problem(415);
    post("none", json!({})).await.problem(404);
    farm.api.ask("/v1/benchmarks/01JD9Z8M3V6Q2X4K7T5R1W0YBC").await.problem(404);
    farm.api.ask("/v1/benchmarks?device=a%00").await.problem(400);

    let endless = json!({ "components": ["unet"], "sizes": ["512x512"], "loads": 0,
        "limits": { "spread_percent": 1, "windows": 20, "window_runs": 100, "max_runs": 10000, "max_seconds": 3600 } });
    let job = farm.api.submit("/v1/models/sd15-tiny/benchmark", endless).await;
    let seen = |seen: &shared::wire::JobDetail| {
        seen.job.progress.as_ref().is_some_and(|progress| progress.phase == "measuring")
    };
    farm.api.job_is(job.id, "it measures", LONG, seen).await;
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    let none: Vec<BenchmarkSummary> = farm.api.list("/v1/benchmarks").await;
    assert!(none.is_empty(), "{none:?}");
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn every_component_is_run_and_what_is_no_number_is_found() {
    let farm = Farm::start().await;
    let Some(agent) = agent(&farm) else { return };
    models(&farm.library());
    let _agent = farm.agent_with_library(agent).await;
    let whole = forward(&farm, "sd15-tiny").await;
    assert_eq!(whole.summary.errors, 0, "{whole:?}");
    let mut ran = runs(&whole);
    ran.sort_unstable();
    assert_eq!(ran, [("forward_ran", "text_encoder"), ("forward_ran", "unet"), ("forward_ran", "vae")]);
    let ran = whole.findings.iter().filter(|finding| finding.code == "forward_ran");
    assert!(ran.clone().all(|finding| finding.message.contains("deviation")), "{whole:?}");
    for finding in ran {
        let facts = finding.facts.as_ref().expect("figures");
        let outputs = facts["outputs"].as_array().expect("a list");
        let is_told = |output: &Value| output["statistics"]["std"].as_f64().is_some_and(|deviation| deviation > 0.0);
        assert!(!outputs.is_empty() && outputs.iter().all(is_told), "{facts}");
    }
    assert_eq!(runs(&forward(&farm, "taesd-tiny").await), [("forward_ran", "vae")]);
    assert_eq!(runs(&forward(&farm, "lora-sd15-tiny").await), [("forward_unsupported", "lora")]);

    let path = farm.library().join("sd15-tiny.safetensors");
    let mut bytes = fs::read(&path).expect("the file");
    let at = begin_of(&bytes, "model.diffusion_model.out.2.bias");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(farm.library().join("broken.safetensors"), bytes).expect("a write");
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let broken = forward(&farm, "broken").await;
    assert_eq!(broken.summary.verdict, "invalid", "{broken:?}");
    assert!(runs(&broken).iter().any(|(code, _)| *code == "forward_not_finite"), "{broken:?}");
    farm.assert_ledger_is_clean().await;
}
