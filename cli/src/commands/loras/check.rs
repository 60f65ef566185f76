//! `modelyard loras check`: what a LoRA would do to a base.

use clap::Args;
use serde::Deserialize;
use shared::{
    error::ErrorCode,
    job::engine::LoraCheckArgs,
    wire::{JobView, LoraCheckRequest, LoraCheckResult, OtherFamily},
};

use super::super::{engine::PlacingArgs, settle, text::bytes};
use crate::{args::WaitArgs, client::Client, error::CliError, follow, output::Output};

/// Rows of a list that are shown of each kind without `--all`.
const SHOWN: usize = 10;

/// Options of `loras check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Id or name of the LoRA.
    lora: String,

    /// Id or name of the model that it would be applied to.
    base: String,

    /// Show every module.
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Does it and gives the exit code: that of what cannot be done for a LoRA that is not for its base.
pub(super) async fn run(args: CheckArgs, client: &Client, output: Output) -> Result<u8, CliError> {
    let label = format!("check {} on {}", args.lora, args.base);
    let wanted = LoraCheckArgs { lora: args.lora, base: args.base };
    let request = LoraCheckRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/loras/check", &request).await?;
    if args.wait.no_wait {
        return settle(client, output, job, "lora_check", args.wait).await.map(|()| 0);
    }
    let job = match job.state.is_terminal() {
        true => job,
        false => follow::follow(client, output, &job, &label, args.wait.timeout).await?,
    };
    let result = LoraCheckResult::deserialize(job.result.unwrap_or_default())?;
    if output.json {
        output.value(&result)?;
    } else {
        show(&result, if args.all { usize::MAX } else { SHOWN }, output)?;
    }
    Ok(if result.fits { 0 } else { ErrorCode::Unsupported.exit_code() })
}

fn show(result: &LoraCheckResult, shown: usize, output: Output) -> Result<(), CliError> {
    let ranks = result.ranks.iter().map(|(rank, modules)| format!("{rank} ({modules} modules)"));
    output.facts(&[
        ("lora", result.lora.clone()),
        ("base", result.base.clone()),
        ("fits", result.refusal.clone().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))),
        (
            "families",
            result.families.as_ref().map_or_else(String::new, |OtherFamily { lora, model }| {
                format!("the LoRA is for {lora}, the model is of {model}")
            }),
        ),
        ("touches", result.components.join(", ")),
        (
            "matched",
            format!(
                "{} modules; {} of these components stay as they are",
                result.matched.len(),
                result.untouched.len()
            ),
        ),
        (
            "without effect",
            match result.without_effect {
                0 => String::new(),
                modules => format!("{modules} modules: their scale is 0"),
            },
        ),
        ("ranks", ranks.collect::<Vec<_>>().join(", ")),
        (
            "takes",
            format!("{} beside the base, about {:.2} s", bytes(result.estimated_bytes), result.estimated_seconds),
        ),
        ("came along", result.others.join(", ")),
    ])?;
    result.warnings.iter().try_for_each(|warning| output.line(format!("warning: {warning}")))?;
    list("not in the base", &result.unmatched, shown, output, String::clone)?;
    list("of other dimensions", &result.mismatched, shown, output, |one| {
        let [rows, columns] = one.found;
        format!("{}: changes {rows} by {columns}, `{}` is {:?}", one.stem, one.tensor, one.expected)
    })?;
    if shown < usize::MAX {
        return Ok(());
    }
    list("as they are", &result.untouched, shown, output, String::clone)?;
    let header = ["MODULE", "COMPONENT", "TENSOR", "RANK", "KIND", "BYTES"];
    output.section("changed", &result.matched, &header, "none", |one| {
        let (rank, tensor) = (one.rank.to_string(), format!("{}.weight", one.path));
        vec![one.stem.clone(), one.component.clone(), tensor, rank, one.flavour.clone(), bytes(one.bytes)]
    })
}

fn list<T>(title: &str, rows: &[T], shown: usize, output: Output, line: impl Fn(&T) -> String) -> Result<(), CliError> {
    if rows.is_empty() {
        return Ok(());
    }
    output.heading(&format!("{title}: {}", rows.len()))?;
    rows.iter().take(shown).try_for_each(|row| output.line(line(row)))?;
    if rows.len() > shown {
        output.note(format!("{} more; `--all` shows them", rows.len() - shown));
    }
    Ok(())
}
