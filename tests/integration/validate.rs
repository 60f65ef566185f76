//! Validation: damage is found and named, the job succeeds all the same, and a report of other files is stale.

use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

use harness::{Farm, LONG, SHORT, binary};
use serde_json::{Value, json};
use shared::{
    job::JobState,
    wire::{Page, TensorStatisticsView, ValidationReport, ValidationSummary},
};

use crate::support::small_model;

async fn validated(farm: &Farm, model: &str, level: &str) -> ValidationReport {
    let job = farm.api.submit(&format!("/v1/models/{model}/validate"), json!({ "level": level })).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.expect("a result")["validation"].as_str().expect("an id").to_owned();
    farm.api.get(&format!("/v1/models/{model}/validations/{id}")).await
}

fn codes(report: &ValidationReport) -> Vec<(&str, Option<&str>)> {
    let bad = report.findings.iter().filter(|finding| finding.severity != "info");
    bad.map(|finding| (finding.code.as_str(), finding.tensor.as_deref())).collect()
}

/// Where a tensor's bytes begin.
fn begin_of(path: &Path, tensor: &str) -> u64 {
    let bytes = fs::read(path).expect("the file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let header: Value = serde_json::from_slice(&bytes[8..8 + usize::try_from(length).expect("a size")]).expect("JSON");
    8 + length + header[tensor]["data_offsets"][0].as_u64().expect("an offset")
}

/// Writes into the file and sets its time back: only its bytes can tell.
fn plant(path: &Path, at: u64, bytes: &[u8]) {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).expect("a time");
    let file = fs::OpenOptions::new().write(true).open(path).expect("the file opens");
    file.write_all_at(bytes, at).expect("a write");
    file.set_modified(modified).expect("the time goes back");
}

#[tokio::test]
async fn planted_numbers_are_found_at_their_tensor() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let first = validated(&farm, "small", "weights").await;
    assert_eq!(first.summary.errors, 0, "{first:?}");
    assert!(first.summary.tensors > 0 && first.summary.bytes > 1 << 20 && !first.summary.stale);
    assert_eq!(validated(&farm, "small", "structure").await.summary.verdict, "ok");
    assert_eq!(validated(&farm, "small", "hash").await.summary.verdict, "ok");

    let name = "encoder.conv_out.weight";
    plant(&path, begin_of(&path, name), &f32::NAN.to_le_bytes());
    let report = validated(&farm, "small", "weights").await;
    assert_eq!(report.summary.verdict, "invalid");
    assert!(codes(&report).contains(&("nan", Some(name))), "{report:?}");
    assert_eq!(report.findings[0].component.as_deref(), Some("vae"));
    // the same identity with other bytes is what the hash is for
    let report = validated(&farm, "small", "hash").await;
    assert_eq!((report.summary.verdict.as_str(), codes(&report)), ("invalid", vec![("hash_mismatch", None)]));
}

#[tokio::test]
async fn a_torn_file_is_invalid_and_older_reports_are_stale() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    validated(&farm, "small", "structure").await;
    let whole = fs::read(&path).expect("the file");
    fs::write(&path, &whole[..whole.len() - 100]).expect("a write");
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let report = validated(&farm, "small", "weights").await;
    assert_eq!((report.summary.verdict.as_str(), codes(&report)), ("invalid", vec![("corrupt_file", None)]));
    let history: Vec<ValidationSummary> = farm.api.list("/v1/models/small/validations").await;
    let seen: Vec<_> = history.iter().map(|report| (report.verdict.as_str(), report.stale)).collect();
    assert_eq!(seen, [("invalid", false), ("ok", true)]);

    farm.api.post("/v1/models/small/validate", &json!({ "level": "deep" })).await.problem(400);
    farm.api.post("/v1/models/none/validate", &json!({})).await.problem(404);
    farm.api.post("/v1/models/small/validate", &json!({ "target": "host:b" })).await.problem(404);
    farm.api.ask("/v1/models/small/validations/01JD9Z8M3V6Q2X4K7T5R1W0YBC").await.problem(404);
    // a file that is gone is no finding: nothing can be said of it
    fs::remove_file(&path).expect("a removal");
    let job = farm.api.submit("/v1/models/small/validate", json!({})).await;
    let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    assert_eq!(failed.job.error.map(|error| error.code), Some(shared::error::ErrorCode::NotFound));
}

#[tokio::test]
async fn the_command_prints_findings_and_ends_with_the_verdict() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let run = |words: &'static str| {
        let (api, folder) = (farm.api.url().to_owned(), farm.path(""));
        async move {
            let mut arguments = vec!["--api".to_owned(), api];
            arguments.extend(words.split(' ').map(str::to_owned));
            let log = folder.join(format!("cli-{}.log", words.len()));
            let environment = [("HOME", folder.display().to_string())];
            let binary = binary("modelyard");
            let clock = harness::Clock::True;
            let mut process = harness::Process::start("modelyard", &binary, &arguments, &environment, &clock, &log);
            let code = process.ended(SHORT + Duration::from_secs(10)).await.code();
            (code, process.output(), process.log())
        }
    };
    let (code, output, notes) = run("models validate small --level structure").await;
    assert!(code == Some(0) && output.contains("verdict"), "{output}{notes}");
    plant(&path, begin_of(&path, "quant_conv.weight"), &f32::INFINITY.to_le_bytes());
    let (code, output, notes) = run("models validate small").await;
    assert!(code == Some(8) && output.contains("quant_conv.weight") && output.contains("infinite"), "{output}{notes}");
    let (code, output, notes) = run("--json models validate small --level weights").await;
    let report: ValidationReport = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert!(code == Some(8) && report.summary.verdict == "invalid", "{output}{notes}");
    let (code, output, notes) = run("models validate small --history").await;
    assert!(code == Some(0) && output.contains("structure"), "{output}{notes}");
    let (code, output, notes) = run("models validate small --history --tensors").await;
    assert!(code == Some(0) && output.contains("quant_conv.weight") && output.contains("OF FP16"), "{output}{notes}");
    let (code, output, notes) = run("models validate small --tensors --level structure").await;
    assert!(code == Some(2) && notes.contains("--tensors"), "{output}{notes}");
}

/// What the numbers of each tensor are like is kept of the newest look at them, page by page.
#[tokio::test]
async fn statistics_of_tensors_are_kept_of_the_newest_report() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let begin = begin_of(&path, "quant_conv.weight");
    plant(&path, begin, &[f32::NAN, 131_008.0].map(f32::to_le_bytes).concat());
    let first = validated(&farm, "small", "weights").await;
    let of = |id: &dyn std::fmt::Display, query: &str| format!("/v1/models/small/validations/{id}/tensors{query}");
    let all: Vec<TensorStatisticsView> = farm.api.list(&of(&first.summary.id, "")).await;
    assert_eq!((all.len() as u64, first.summary.statistics), (first.summary.tensors, first.summary.tensors));
    let one = all.iter().find(|tensor| tensor.tensor == "quant_conv.weight").expect("the tensor");
    assert_eq!((one.dtype.as_str(), one.nan, one.component.as_deref()), ("F32", 1, Some("vae")));
    assert_eq!((one.max, one.absmax, one.of_fp16_range), (Some(131_008.0), Some(131_008.0), Some(2.0)), "{one:?}");
    assert!(one.mean.zip(one.std).is_some_and(|(mean, std)| mean > 0.0 && std > 0.0) && one.infinite == 0, "{one:?}");
    let named: Vec<TensorStatisticsView> =
        farm.api.list(&of(&first.summary.id, "?name=QUANT_conv&component=vae")).await;
    assert!(!named.is_empty() && named.iter().all(|tensor| tensor.tensor.contains("quant_conv")), "{named:?}");
    let page: Page<TensorStatisticsView> = farm.api.get(&of(&first.summary.id, "?limit=2")).await;
    let cursor = page.next_cursor.expect("more than two tensors");
    let rest: Page<TensorStatisticsView> =
        farm.api.get(&of(&first.summary.id, &format!("?limit=2&cursor={cursor}"))).await;
    assert_eq!((&page.items[..], &rest.items[..]), (&all[..2], &all[2..4]));

    let second = validated(&farm, "small", "weights").await;
    let structure = validated(&farm, "small", "structure").await;
    farm.api.ask(&of(&first.summary.id, "")).await.problem(404);
    farm.api.ask(&of(&structure.summary.id, "")).await.problem(404);
    let kept: Vec<TensorStatisticsView> = farm.api.list(&of(&second.summary.id, "")).await;
    assert_eq!(kept, all);
}
