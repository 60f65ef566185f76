//! `modelyard loras ls` and `show`.

use clap::Args;
use shared::wire::{LoraDetail, LoraFacts, LoraView, Page};

use super::super::text::{age, bytes, dash, joined};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Largest page that the API gives.
const PAGE: usize = 1000;

/// Options of `loras ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only names that contain this.
    #[arg(value_name = "TEXT")]
    contains: Option<String>,

    /// Only those for these bases, e.g. `sd15`, `sdxl`.
    #[arg(long, value_name = "BASES", value_delimiter = ',')]
    base: Vec<String>,

    /// Only those on this host's disk.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// At most so many.
    #[arg(long)]
    limit: Option<usize>,
}

pub(super) async fn run(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let loras = found(args, client).await?;
    let header = ["NAME", "BASE", "FLAVOUR", "RANK", "MODULES", "SIZE", "TRIGGERS", "STATE", "RAM", "VRAM"];
    output.list(&loras, &header, "no LoRAs; `modelyard scan` looks for them", |lora| {
        let LoraView { summary, facts, trigger_words } = lora;
        vec![
            summary.name.clone(),
            summary.base.clone(),
            dash(facts.flavour.as_deref()),
            ranks(facts),
            dash(facts.modules.map(|modules| modules.to_string()).as_deref()),
            bytes(summary.size_bytes),
            dash(trigger_words.first().map(String::as_str)),
            summary.state.clone(),
            joined(&summary.residency.ram),
            joined(&summary.residency.vram),
        ]
    })
}

/// All pages, at most `limit` rows.
async fn found(args: ListArgs, client: &Client) -> Result<Vec<LoraView>, CliError> {
    let mut rows: Vec<LoraView> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let wanted = args.limit.map_or(PAGE, |limit| (limit - rows.len()).min(PAGE)).to_string();
        let query = [
            ("q", args.contains.clone()),
            ("base", Some(args.base.join(",")).filter(|bases| !bases.is_empty())),
            ("host", args.host.clone()),
            ("cursor", cursor),
            ("limit", Some(wanted)),
        ];
        let page: Page<LoraView> = client.get("/v1/loras", &query).await?;
        rows.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() || args.limit.is_some_and(|limit| rows.len() >= limit) {
            return Ok(rows);
        }
    }
}

fn ranks(facts: &LoraFacts) -> String {
    match (facts.rank_min, facts.rank_max) {
        (Some(least), Some(most)) if least != most => format!("{least}-{most}"),
        (_, Some(rank)) => rank.to_string(),
        _ => "-".to_owned(),
    }
}

pub(super) async fn show(lora: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let detail: LoraDetail = client.get(&format!("/v1/loras/{}", segment(lora)), &[]).await?;
    if output.json {
        return output.value(&detail);
    }
    let LoraDetail { model, facts, trigger_words } = &detail;
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    output.facts(&[
        ("name", model.summary.name.clone()),
        ("id", model.summary.id.to_string()),
        ("title", model.summary.title.clone().unwrap_or_default()),
        ("base", model.summary.base.clone()),
        ("flavours", facts.flavours.join(", ")),
        ("ranks", ranks(facts)),
        ("modules", facts.modules.map(|modules| modules.to_string()).unwrap_or_default()),
        ("trained as", number(facts.network_dim)),
        ("trained alpha", number(facts.network_alpha)),
        ("triggers", trigger_words.join(", ")),
        ("dtype", model.summary.variant.clone().unwrap_or_default()),
        ("size", bytes(model.summary.size_bytes)),
        ("state", model.summary.state.clone()),
        ("reason", model.summary.reason.clone().unwrap_or_default()),
        ("digest", model.components.first().and_then(|component| component.digest.clone()).unwrap_or_default()),
        ("in RAM of", joined(&model.summary.residency.ram)),
        ("on", joined(&model.summary.residency.vram)),
    ])?;
    output.section("on disk", &model.locations, &["HOST", "PATH", "SEEN"], "nowhere", |location| {
        vec![location.host.clone(), location.path.clone(), age(location.seen_at)]
    })
}
