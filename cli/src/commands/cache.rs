//! `modelyard cache`: components in RAM.

use clap::{Args, Subcommand};
use shared::{
    ids::ComponentId,
    job::Target,
    wire::{CacheRequest, CacheView, JobRequest, JobView, ResidentComponent},
};

use super::{
    load::some,
    settle,
    text::{RESIDENT, age, bytes, bytes_of, resident_row, warn_stale},
};
use crate::{
    args::{PlaceArgs, WaitArgs},
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// What to do with the RAM tier.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is in RAM, per host, with budgets and hit counts.
    #[command(visible_alias = "list")]
    Ls,
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

async fn add(args: AddArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = CacheRequest {
        model: args.model.clone(),
        components: some(args.components),
        target: args.place.target().unwrap_or_default(),
        priority: args.priority,
    };
    let job: JobView = client.post("/v1/cache", &request).await?;
    settle(client, output, job, &format!("cache {}", args.model), args.wait).await
}

async fn remove(args: RemoveArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let label = format!("free {}", args.what);
    let component = args.what.parse::<ComponentId>().ok().filter(|_| !args.model);
    let job: JobView = match component {
        Some(component) => {
            client.delete(&format!("/v1/cache/components/{}", segment(&component.to_string())), &[]).await?
        }
        None => client.post("/v1/jobs", &remove_model(args.what)).await?,
    };
    settle(client, output, job, &label, args.wait).await
}

fn remove_model(model: String) -> JobRequest {
    JobRequest {
        kind: "cache_remove".to_owned(),
        args: serde_json::json!({ "model": model }),
        target: Target::All,
        priority: 0,
        labels: Vec::new(),
        max_attempts: None,
    }
}
