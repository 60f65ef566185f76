//! `modelyard cache`: components in RAM.

use clap::{Args, Subcommand};
use shared::{
    ids::ComponentId,
    job::Target,
    status::{AgeCount, CacheStats},
    wire::{CacheHost, CacheRequest, CacheView, JobRequest, JobView, ResidentComponent},
};

use super::{
    evictions::{self, EvictionArgs, ExplainArgs},
    load::{KeepArgs, some},
    settle,
    text::{RESIDENT, age, bytes, bytes_of, resident_row, warn_stale},
};
use crate::{
    args::{PlaceArgs, WaitArgs},
    client::Client,
    error::CliError,
    output::Output,
};

/// What to do with the RAM tier.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is in RAM, per host, with budgets and hit counts.
    #[command(visible_alias = "list")]
    Ls,
    /// How the caches of RAM fare: hits, evictions by reason, ages, memory pressure.
    Stats,
    /// Why a component (or each of a model) is still in RAM or on a device, who holds it, when it would go, why it went last.
    Explain(ExplainArgs),
    /// What was taken out of RAM or off devices, and why.
    Evictions(EvictionArgs),
    /// Do not evict a component, or the components of a model, until they are unprotected.
    Protect(ProtectArgs),
    /// Let what is protected be evicted again.
    Unprotect(ProtectArgs),
    /// Bring a model's components into RAM.
    Add(AddArgs),
    /// Free one component, or all components of one model.
    Rm(RemoveArgs),
    /// Free everything that is not in use.
    Clear(ClearArgs),
}

/// Options of `cache add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Id or name of the model.
    model: String,

    #[command(flatten)]
    place: PlaceArgs,

    /// Only this component, e.g. `vae`; may be given several times.
    #[arg(long = "component", value_name = "KIND")]
    components: Vec<String>,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    #[command(flatten)]
    keep: KeepArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Options of `cache rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Id of a component, or id or name of a model.
    what: String,

    /// `WHAT` is a model's id, not a component's.
    #[arg(long)]
    model: bool,

    /// Only on this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Also end loads of it into RAM that are under way, for every job that waits for them, once the host has a free slot.
    #[arg(long)]
    cancel_loads: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Options of `cache protect` and `cache unprotect`.
#[derive(Debug, Args)]
pub struct ProtectArgs {
    /// Id of a component, or id or name of a model.
    what: String,

    /// `WHAT` is a model's id, not a component's.
    #[arg(long)]
    model: bool,

    /// Only in the RAM of this host.
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    host: Option<String>,

    /// The copies on this device instead of those in RAM.
    #[arg(long, value_name = "HOST/DEVICE")]
    device: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Options of `cache clear`.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// Only on this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn run(command: CacheCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        CacheCommand::Ls => list(client, output).await,
        CacheCommand::Stats => stats(client, output).await,
        CacheCommand::Explain(args) => evictions::explain(args, client, output).await,
        CacheCommand::Evictions(args) => evictions::evictions(args, client, output).await,
        CacheCommand::Protect(args) => protect(args, true, client, output).await,
        CacheCommand::Unprotect(args) => protect(args, false, client, output).await,
        CacheCommand::Add(args) => add(args, client, output).await,
        CacheCommand::Rm(args) => remove(args, client, output).await,
        CacheCommand::Clear(args) => {
            let job: JobView = client.delete("/v1/cache", &[("host", args.host)]).await?;
            settle(client, output, job, "clear the RAM cache", args.wait).await
        }
    }
}

async fn list(client: &Client, output: Output) -> Result<(), CliError> {
    let view: CacheView = client.get("/v1/cache", &[]).await?;
    if output.json { output.value(&view) } else { print(&view, output) }
}

/// Budgets and components.
pub(crate) fn print(view: &CacheView, output: Output) -> Result<(), CliError> {
    warn_stale(output, &view.staleness);
    output.list(
        &view.hosts,
        &["HOST", "USED", "RESERVED", "HITS", "MISSES", "JOINS", "EVICTIONS", "READ"],
        "no hosts",
        |host| {
            let stats = &host.stats;
            vec![
                host.host.clone(),
                bytes_of(stats.used_bytes, stats.budget_bytes),
                bytes(stats.reserved_bytes),
                stats.hits.to_string(),
                stats.misses.to_string(),
                stats.joins.to_string(),
                stats.evictions.to_string(),
                bytes(stats.loaded_bytes),
            ]
        },
    )?;
    let components: Vec<ResidentComponent> = view.hosts.iter().flat_map(|host| host.components.clone()).collect();
    let header = [&RESIDENT[..], &["USED", "ID"]].concat();
    output.section("components", &components, &header, "none", |component| {
        let mut row = resident_row(component);
        row.push(component.last_used.map(age).unwrap_or_default());
        row.push(component.component.to_string());
        row
    })
}

async fn stats(client: &Client, output: Output) -> Result<(), CliError> {
    let view: CacheView = client.get("/v1/cache", &[]).await?;
    if output.json {
        return output.value(&view);
    }
    warn_stale(output, &view.staleness);
    view.hosts.iter().try_for_each(|host| host_stats(host, output))
}

fn host_stats(host: &CacheHost, output: Output) -> Result<(), CliError> {
    let stats = &host.stats;
    output.heading(&host.host)?;
    let lookups = stats.hits + stats.misses + stats.joins;
    let percent = (stats.hits * 100).checked_div(lookups);
    let ratio = percent.map(|percent| format!(" ({percent}% hits)")).unwrap_or_default();
    let out = &stats.evicted;
    let pressure = host.pressure.as_ref().map(|seen| match &seen.cause {
        Some(cause) => format!("{}: {cause}", seen.level),
        None => seen.level.clone(),
    });
    output.facts(&[
        ("policy", host.policy.clone().unwrap_or_default()),
        ("used", bytes_of(stats.used_bytes, stats.budget_bytes)),
        ("configured", bytes(stats.configured_bytes)),
        ("pressure", pressure.unwrap_or_default()),
        ("lookups", format!("{} hits, {} misses, {} joins{ratio}", stats.hits, stats.misses, stats.joins)),
        ("read", bytes(stats.loaded_bytes)),
        (
            "evicted",
            format!(
                "{}: {} for room, {} under pressure, {} expired, {} requested, {} cleared, {} duplicate, {} superseded, {} by plans",
                bytes(stats.evicted_bytes),
                out.room,
                out.pressure,
                out.expired,
                out.requested,
                out.cleared,
                out.duplicate,
                out.superseded,
                out.optimized
            ),
        ),
        ("early reloads", stats.early_reloads.to_string()),
        ("failed loads", failures(stats)),
        ("ages", ages(&stats.eviction_ages)),
    ])
}

/// `3, 1 because its disk gave nothing; 1 disk does not answer`.
fn failures(stats: &CacheStats) -> String {
    let stalled = (stats.stalled_loads > 0).then(|| format!(", {} because no byte came", stats.stalled_loads));
    let hung = (stats.hung_disks > 0).then(|| format!("; disks that do not answer: {}", stats.hung_disks));
    format!("{}{}{}", stats.load_failures, stalled.unwrap_or_default(), hung.unwrap_or_default())
}

/// `3 within 60s, 1 older`; empty when nothing was taken out.
fn ages(steps: &[AgeCount]) -> String {
    let seen = steps.iter().filter(|step| step.count > 0);
    let text = seen.map(|step| match step.up_to_seconds {
        Some(bound) => format!("{} within {bound}s", step.count),
        None => format!("{} older", step.count),
    });
    text.collect::<Vec<_>>().join(", ")
}

async fn protect(args: ProtectArgs, on: bool, client: &Client, output: Output) -> Result<(), CliError> {
    let label = format!("{} {}", if on { "protect" } else { "unprotect" }, args.what);
    let component = args.what.parse::<ComponentId>().ok().filter(|_| !args.model);
    let what = match component {
        Some(component) => serde_json::json!({ "component": component, "protect": on }),
        None => serde_json::json!({ "model": args.what, "protect": on }),
    };
    let request = JobRequest {
        kind: "cache_keep".to_owned(),
        args: what,
        target: args.device.map(Target::Device).or(args.host.map(Target::Host)).unwrap_or(Target::All),
        priority: 0,
        labels: Vec::new(),
        max_attempts: None,
    };
    let job: JobView = client.post("/v1/jobs", &request).await?;
    settle(client, output, job, &label, args.wait).await
}

async fn add(args: AddArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = CacheRequest {
        model: args.model.clone(),
        components: some(args.components),
        target: args.place.target().unwrap_or_default(),
        priority: args.priority,
        keep_alive: args.keep.keep_alive,
        protect: args.keep.protect,
    };
    let job: JobView = client.post("/v1/cache", &request).await?;
    settle(client, output, job, &format!("cache {}", args.model), args.wait).await
}

async fn remove(args: RemoveArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let label = format!("free {}", args.what);
    let component = args.what.parse::<ComponentId>().ok().filter(|_| !args.model);
    let job: JobView = match component {
        Some(component) => {
            let loads = args.cancel_loads.then(|| "true".to_owned());
            let query = [("host", args.host), ("cancel_loads", loads)];
            client.delete(&format!("/v1/cache/components/{component}"), &query).await?
        }
        None => client.post("/v1/jobs", &remove_model(args.what, args.host, args.cancel_loads)).await?,
    };
    settle(client, output, job, &label, args.wait).await
}

fn remove_model(model: String, host: Option<String>, cancel_loads: bool) -> JobRequest {
    JobRequest {
        kind: "cache_remove".to_owned(),
        args: serde_json::json!({ "model": model, "cancel_loads": cancel_loads }),
        target: host.map_or(Target::All, Target::Host),
        priority: 0,
        labels: Vec::new(),
        max_attempts: None,
    }
}
