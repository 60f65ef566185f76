//! `modelyard models validate`: look for what is wrong with a model, and say it.

use clap::Args;
use shared::{
    error::ErrorCode,
    job::{Target, ValidateLevel},
    wire::{JobView, ValidateRequest, ValidationReport, ValidationSummary},
};

use super::{
    statistics,
    text::{age, bytes},
};
use crate::{
    args::WaitArgs,
    client::{Client, segment},
    error::CliError,
    follow,
    output::Output,
};

/// Options of `models validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Id or name of the model.
    model: String,

    /// How far to go: `structure` (headers, shards, links between parts), `architecture` (also the tensors' names and
    /// shapes), `weights` (also every number), `forward` (the architecture, and a small run of each component on a
    /// device), or `hash` (structure, and the recorded hashes and digests: files with
    /// others are marked as corrupt, those that are well again are marked no more).
    #[arg(long, default_value = "weights")]
    level: ValidateLevel,

    /// The files of this host; of any host that has them when absent.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// On this device; with level `forward` only.
    #[arg(long, value_name = "HOST/DEVICE", conflicts_with = "host")]
    device: Option<String>,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    /// Show the reports that there are, and make none.
    #[arg(long, conflicts_with_all = ["level", "host", "device", "priority", "no_wait", "timeout"])]
    history: bool,

    /// Show what the numbers of each tensor are like: of this validation, or with `--history` of the newest one that has
    /// them. Needs level `weights`.
    #[arg(long)]
    tensors: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Validates and gives the exit code: that of an invalid model for `invalid` and `unsafe`.
pub(crate) async fn run(args: ValidateArgs, client: &Client, output: Output) -> Result<u8, CliError> {
    let model = segment(&args.model).to_string();
    if args.history && args.tensors {
        return statistics::newest(&model, client, output).await.map(|()| 0);
    }
    if args.history {
        return history(&model, client, output).await.map(|()| 0);
    }
    if args.tensors && (args.level != ValidateLevel::Weights || args.wait.no_wait) {
        return Err(CliError::Usage("`--tensors` needs level `weights`, and somebody who waits".to_owned()));
    }
    let request = ValidateRequest {
        level: args.level,
        target: args.device.map(Target::Device).or(args.host.map(Target::Host)).unwrap_or_default(),
        priority: args.priority,
    };
    let job: JobView = client.post(&format!("/v1/models/{model}/validate"), &request).await?;
    if args.wait.no_wait {
        return super::settle(client, output, job, "validate", args.wait).await.map(|()| 0);
    }
    let label = format!("validate {}", args.model);
    let job = follow::follow(client, output, &job, &label, args.wait.timeout).await?;
    let id = job.result.as_ref().and_then(|result| result.get("validation")?.as_str());
    let id = id.ok_or_else(|| CliError::failed(ErrorCode::Internal, format!("job {} names no report", job.id)))?;
    let report: ValidationReport = client.get(&format!("/v1/models/{model}/validations/{}", segment(id)), &[]).await?;
    if args.tensors {
        let ValidationSummary { verdict, errors, warnings, .. } = &report.summary;
        output.note(format!("verdict {verdict}: {errors} errors, {warnings} warnings"));
        statistics::show(&model, &report.summary.id, client, output).await?;
    } else {
        print(&report, output)?;
    }
    Ok(exit_code(&report.summary.verdict))
}

fn exit_code(verdict: &str) -> u8 {
    match verdict {
        "invalid" => ErrorCode::Corrupt.exit_code(),
        "unsafe" => ErrorCode::UnsafeFormat.exit_code(),
        _ => 0,
    }
}

fn print(report: &ValidationReport, output: Output) -> Result<(), CliError> {
    if output.json {
        return output.value(report);
    }
    let summary = &report.summary;
    let counts = format!("{} errors, {} warnings, {} infos", summary.errors, summary.warnings, summary.infos);
    output.facts(&[
        ("verdict", summary.verdict.clone()),
        ("level", summary.level.clone()),
        ("host", summary.host.clone()),
        ("findings", counts),
        ("read", format!("{} tensors, {} in {:.1} s", summary.tensors, bytes(summary.bytes), summary.seconds)),
        ("report", summary.id.to_string()),
        ("stale", if summary.stale { "the files are others by now".to_owned() } else { String::new() }),
    ])?;
    if report.findings.is_empty() {
        return Ok(());
    }
    let header = ["SEVERITY", "CODE", "COMPONENT", "TENSOR", "EXPECTED", "FOUND", "MESSAGE"];
    output.section("findings", &report.findings, &header, "none", |finding| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        vec![
            finding.severity.clone(),
            finding.code.clone(),
            text(&finding.component),
            text(&finding.tensor),
            text(&finding.expected),
            text(&finding.found),
            finding.message.clone(),
        ]
    })?;
    if report.omitted > 0 {
        output.note(format!("{} more findings were left out of the report", report.omitted));
    }
    Ok(())
}

async fn history(model: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let reports: Vec<ValidationSummary> = client.list(&format!("/v1/models/{model}/validations"), &[], None).await?;
    let header = ["WHEN", "LEVEL", "VERDICT", "ERRORS", "WARNINGS", "HOST", "STALE", "ID"];
    output.list(&reports, &header, "never validated", |report| {
        vec![
            age(report.created_at),
            report.level.clone(),
            report.verdict.clone(),
            report.errors.to_string(),
            report.warnings.to_string(),
            report.host.clone(),
            if report.stale { "yes" } else { "no" }.to_owned(),
            report.id.to_string(),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_models_have_the_exit_code_of_bad_models() {
        assert_eq!((exit_code("ok"), exit_code("degraded")), (0, 0));
        assert_eq!((exit_code("invalid"), exit_code("unsafe")), (8, 8));
    }
}
