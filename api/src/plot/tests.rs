//! Pictures of reports: whole, escaped, and of nothing at all.

use shared::{
    ids::{BenchmarkId, JobId, ModelId},
    job::ImageSize,
    measure::Summary,
    wire::{BenchmarkResult, BenchmarkSummary, CaseMeasure, Ended, Fingerprint, LoadMeasure, Series, Steady},
};

use super::*;

fn series(seconds: Vec<f64>) -> Series {
    Series { summary: Summary::of(&seconds).unwrap(), seconds }
}

fn case(operation: &str, seconds: Vec<f64>, from: usize, ended: Ended) -> CaseMeasure {
    let summary = Summary::of(&seconds[from..]).unwrap();
    CaseMeasure {
        component: "vae".into(),
        operation: operation.into(),
        batch: 2,
        size: Some(ImageSize { width: 512, height: 768 }),
        steps: None,
        first_run_seconds: 1.5,
        items_per_second: 2.0 / summary.p50,
        steady: Steady {
            seconds,
            omitted: 0,
            from: from as u64,
            stable: ended == Ended::Stable,
            spread: Some(0.021),
            ended,
            summary,
        },
        peak_bytes: Some(300 << 20),
        estimated_bytes: None,
    }
}

fn report(name: &str) -> BenchmarkReport {
    let wave = |center: f64| (0..40).map(|run| center * (1.0 + 0.03 * f64::from(run % 7) / 7.0)).collect::<Vec<_>>();
    let mut decode = wave(0.083);
    decode[2] = 0.14;
    decode[31] = 0.12;
    let loads = LoadMeasure {
        component: "vae".into(),
        bytes: 167_335_342,
        cold: Some(series(vec![0.31, 0.29, 0.33])),
        warm: Some(series(vec![0.031, 0.030, 0.029])),
    };
    let cases = vec![case("vae_decode", decode, 25, Ended::Stable), case("vae_encode", wave(0.0412), 10, Ended::Time)];
    BenchmarkReport {
        summary: BenchmarkSummary {
            id: BenchmarkId::generate(),
            model: ModelId::generate(),
            model_name: name.into(),
            job: JobId::generate(),
            device: "gpu-1/cuda:0".into(),
            components: vec!["vae".into()],
            pipeline: false,
            baseline: None,
            verdict: Some("regressed".into()),
            stable: false,
            created_at: chrono::DateTime::UNIX_EPOCH,
        },
        args: serde_json::json!({}),
        fingerprint: Fingerprint { product: "GPU".into(), cpu: "Some CPU".into(), cpus: 8, ..Fingerprint::default() },
        result: BenchmarkResult { loads: vec![loads], cases, skipped: Vec::new() },
        comparison: None,
    }
}

#[test]
fn every_run_outlier_and_bar_is_drawn() {
    let picture = draw(&report("sdxl"));
    assert_eq!(picture.matches("<rect").count(), 1 + 4 + 2, "background, bars, bands");
    let decode = report("sdxl").result.cases.remove(0);
    let outliers = decode.steady.summary.outliers.len();
    assert!(outliers >= 1, "{:?}", decode.steady.summary);
    assert_eq!(picture.matches("<circle").count(), 80 + picture.matches("class=\"outlier\"").count());
    assert!(picture.contains("sdxl on gpu-1/cuda:0 · regressed") && picture.contains("not stable, time over"));
    assert!(!picture.contains("NaN") && !picture.contains("inf"));
}

#[test]
fn names_are_text_and_an_empty_report_has_a_picture() {
    let picture = draw(&report("<script>\"&\u{0}"));
    assert!(picture.contains("&lt;script&gt;&quot;&amp; on") && !picture.contains("<script"));
    let mut empty = report("nothing");
    empty.result = BenchmarkResult::default();
    let picture = draw(&empty);
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
}
