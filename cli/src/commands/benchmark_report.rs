//! A benchmark and a comparison as tables.

use shared::{
    measure::{Summary, seconds_text},
    wire::{BenchmarkReport, CaseMeasure, Comparison, Ended, Fingerprint},
};

use super::text::bytes;
use crate::{error::CliError, output::Output};

/// Shows a benchmark with its machine, loads, cases, and the comparison that was made with it.
pub(super) fn show(report: &BenchmarkReport, output: Output) -> Result<(), CliError> {
    let summary = &report.summary;
    output.facts(&[
        ("benchmark", summary.id.to_string()),
        ("model", summary.model_name.clone()),
        ("device", format!("{}: {}", summary.device, report.fingerprint.product)),
        ("machine", machine(&report.fingerprint)),
        ("library", report.fingerprint.library.clone().unwrap_or_default()),
        ("driver", report.fingerprint.driver.clone().unwrap_or_default()),
        ("verdict", summary.verdict.clone().unwrap_or_default()),
    ])?;
    loads(report, output)?;
    cases(report, output)?;
    if !report.result.skipped.is_empty() {
        output.section("not measured", &report.result.skipped, &["WHAT", "WHY"], "nothing", |one| {
            vec![one.what.clone(), one.reason.clone()]
        })?;
    }
    report.comparison.as_ref().map_or(Ok(()), |comparison| self::comparison(comparison, output))
}

fn machine(of: &Fingerprint) -> String {
    let memory = bytes(of.memory_bytes);
    format!("{}: {}, {} processors, {memory}, Linux {}", of.host, of.cpu, of.cpus, of.kernel)
}

fn loads(report: &BenchmarkReport, output: Output) -> Result<(), CliError> {
    let header = ["COMPONENT", "BYTES", "COLD", "WARM", "SAMPLES"];
    let series = |series: &Option<shared::wire::Series>| {
        series.as_ref().map_or_else(|| "-".to_owned(), |series| seconds_text(series.summary.p50))
    };
    if report.result.loads.is_empty() {
        return Ok(());
    }
    output.section("loads", &report.result.loads, &header, "not measured", |load| {
        let samples = load.warm.as_ref().or(load.cold.as_ref()).map_or(0, |series| series.seconds.len());
        vec![load.component.clone(), bytes(load.bytes), series(&load.cold), series(&load.warm), samples.to_string()]
    })
}

fn cases(report: &BenchmarkReport, output: Output) -> Result<(), CliError> {
    let header = ["CASE", "FIRST", "P50", "P90", "P99", "ITEMS/S", "RUNS", "OUTLIERS", "STABLE", "PEAK"];
    output.section("runs", &report.result.cases, &header, "nothing could be run", |case| {
        let Summary { p50, p90, p99, .. } = case.steady.summary;
        vec![
            case.label(),
            seconds_text(case.first_run_seconds),
            seconds_text(p50),
            seconds_text(p90),
            seconds_text(p99),
            format!("{:.2}", case.items_per_second),
            (case.steady.omitted + case.steady.seconds.len() as u64).to_string(),
            case.steady.summary.outliers.len().to_string(),
            stable(case),
            case.peak_bytes.map_or_else(|| "-".to_owned(), bytes),
        ]
    })
}

fn stable(case: &CaseMeasure) -> String {
    match case.steady.ended {
        Ended::Stable => "yes".to_owned(),
        Ended::Runs => "no: all runs made".to_owned(),
        Ended::Time => "no: time over".to_owned(),
    }
}

/// Shows two benchmarks side by side.
pub(super) fn comparison(comparison: &Comparison, output: Output) -> Result<(), CliError> {
    let title = format!(
        "{} against {} (changes of more than {} %, outside of both spreads)",
        comparison.verdict.as_str(),
        comparison.before,
        comparison.bound_percent
    );
    output.section(
        &title,
        &comparison.cases,
        &["WHAT", "BEFORE", "AFTER", "RATIO", "CHANGE"],
        "nothing in both",
        |one| {
            vec![
                one.what.clone(),
                seconds_text(one.compared.before),
                seconds_text(one.compared.after),
                format!("{:.3}", one.compared.ratio),
                one.compared.change.as_str().to_owned(),
            ]
        },
    )?;
    for (which, only) in [("before", &comparison.only_before), ("after", &comparison.only_after)] {
        if !only.is_empty() {
            output.note(format!("only measured {which}: {}", only.join(", ")));
        }
    }
    for difference in &comparison.differences {
        let (before, after) = (&difference.before, &difference.after);
        output.note(format!("{} differs: {before} before, {after} after", difference.field));
    }
    Ok(())
}
