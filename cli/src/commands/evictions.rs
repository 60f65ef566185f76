//! `modelyard cache evictions` and `cache explain`: who went and why, and why what is here is here.

use clap::Args;
use shared::{
    ids::ComponentId,
    wire::{CachedComponent, EvictionView, ModelDetail, Page, ResidentComponent},
};

use super::text::{age, bytes, dash, joined, resident_row, warn_stale};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Options of `cache evictions`.
#[derive(Debug, Args)]
pub struct EvictionArgs {
    /// Only on this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Only off this device.
    #[arg(long, value_name = "HOST/DEVICE")]
    device: Option<String>,

    /// Only those that took out this component.
    #[arg(long, value_name = "ID")]
    component: Option<String>,

    /// At most so many.
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

/// Options of `cache explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of a component, or id or name of a model.
    what: String,

    /// `WHAT` is a model's id, not a component's.
    #[arg(long)]
    model: bool,
}

pub(super) async fn evictions(args: EvictionArgs, client: &Client, output: Output) -> Result<(), CliError> {
    of_tier(None, args, client, output).await
}

/// The decisions of devices alone.
pub(super) async fn off_devices(args: EvictionArgs, client: &Client, output: Output) -> Result<(), CliError> {
    of_tier(Some("vram"), args, client, output).await
}

async fn of_tier(tier: Option<&str>, args: EvictionArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let query = [
        ("tier", tier.map(str::to_owned)),
        ("host", args.host),
        ("device", args.device),
        ("component", args.component),
        ("limit", Some(args.limit.to_string())),
    ];
    let page: Page<EvictionView> = client.get("/v1/cache/evictions", &query).await?;
    if output.json {
        return output.value(&page);
    }
    output.list(&page.items, &["WHEN", "PLACE", "REASON", "FREED", "WENT", "FOR"], "nothing was evicted", |one| {
        let went = one.candidates.iter().filter(|candidate| candidate.verdict == "evict");
        let went: Vec<String> = went.map(|gone| name_of(gone.name.as_deref(), gone.component)).collect();
        vec![
            age(one.at),
            place_of(one),
            one.reason.clone(),
            bytes(one.freed_bytes),
            joined(&went),
            one.wanted.map_or_else(|| "-".to_owned(), |id| name_of(one.wanted_name.as_deref(), id)),
        ]
    })
}

pub(super) async fn explain(args: ExplainArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let ids: Vec<ComponentId> = match args.what.parse().ok().filter(|_| !args.model) {
        Some(component) => vec![component],
        None => {
            let model: ModelDetail = client.get(&format!("/v1/models/{}", segment(&args.what)), &[]).await?;
            model.components.iter().map(|component| component.id).collect()
        }
    };
    let mut explained: Vec<CachedComponent> = Vec::new();
    for id in ids {
        explained.push(client.get(&format!("/v1/cache/components/{id}"), &[]).await?);
    }
    if output.json {
        return output.value(&explained);
    }
    if let Some(first) = explained.first() {
        warn_stale(output, &first.staleness);
    }
    explained.iter().try_for_each(|one| explain_one(one, output))
}

fn explain_one(one: &CachedComponent, output: Output) -> Result<(), CliError> {
    let title = format!("{}/{} ({})", one.model_name, one.component.kind, one.component.id);
    let header = ["PLACE", "STATE", "BYTES", "LEASES", "HELD BY", "LAST USE", "RELOAD", "REUSE/H", "SCORE", "WOULD GO"];
    let copies: Vec<ResidentComponent> = one.copies.iter().chain(&one.on_devices).cloned().collect();
    output.section(&title, &copies, &header, "neither in RAM nor on a device", copy_row)?;
    let decisions = one.last_eviction.iter().chain(&one.last_device_eviction);
    decisions.into_iter().try_for_each(|last| explain_decision(last, output))
}

fn explain_decision(last: &EvictionView, output: Output) -> Result<(), CliError> {
    let wanted = last.wanted.map(|id| format!(" for {}", name_of(last.wanted_name.as_deref(), id)));
    let label = format!(
        "went last {} ago from {}: {}{}; {} were needed",
        age(last.at),
        place_of(last),
        last.reason,
        wanted.unwrap_or_default(),
        bytes(last.need_bytes)
    );
    let header = ["COMPONENT", "VERDICT", "BYTES", "AGE", "IDLE", "USES", "RELOAD", "REUSE/H", "SCORE"];
    output.section(&label, &last.candidates, &header, "no table", |row| {
        vec![
            name_of(row.name.as_deref(), row.component),
            row.verdict.clone(),
            bytes(row.bytes),
            format!("{:.0}s", row.age_seconds),
            format!("{:.0}s", row.idle_seconds),
            row.hits.to_string(),
            format!("{:.2}s", row.reload_seconds),
            format!("{:.2}", row.reuses_per_hour),
            format!("{:.3}", row.score),
        ]
    })
}

fn copy_row(copy: &ResidentComponent) -> Vec<String> {
    let standing = copy.eviction.as_ref();
    let figure = |text: Option<String>| dash(text.as_deref());
    let kept = resident_row(copy).pop().unwrap_or_default();
    vec![
        copy.device.clone().unwrap_or_else(|| copy.host.clone()),
        copy.failure.as_ref().map_or_else(|| copy.state.clone(), |why| format!("{}: {why}", copy.state)),
        bytes(copy.bytes),
        kept,
        joined(if copy.holders.is_empty() { &copy.needed_by } else { &copy.holders }),
        figure(copy.last_used.map(age)),
        figure(standing.map(|one| format!("{:.2}s", one.reload_seconds))),
        figure(standing.map(|one| format!("{:.2}", one.reuses_per_hour))),
        figure(standing.map(|one| format!("{:.3}", one.score))),
        when(copy),
    ]
}

/// When it would go, in words.
fn when(copy: &ResidentComponent) -> String {
    if copy.leases > 0 {
        return "not while it is leased".to_owned();
    }
    if copy.protected {
        return "not while it is protected".to_owned();
    }
    let place = copy.eviction.as_ref().and_then(|one| Some((one.place?, one.bytes_before)));
    let by_policy = match place {
        Some((1, _)) => "first when room is needed".to_owned(),
        Some((place, before)) => format!("as number {place}, after {} of others", bytes(before)),
        None => "unknown without the live view".to_owned(),
    };
    match copy.expires_at {
        Some(at) => format!("at {} or {by_policy}", at.format("%H:%M:%S")),
        None => by_policy,
    }
}

fn place_of(decision: &EvictionView) -> String {
    decision.device.clone().unwrap_or_else(|| decision.host.clone())
}

fn name_of(name: Option<&str>, id: ComponentId) -> String {
    name.map_or_else(|| id.to_string(), str::to_owned)
}
