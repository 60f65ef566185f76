//! `modelyard load` and `unload`.

use clap::Args;
use shared::{
    job::KeepAlive,
    wire::{JobView, LoadRequest, UnloadRequest},
};

use super::settle;
use crate::{
    args::{PlaceArgs, WaitArgs},
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Options of `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Id or name of the model.
    model: String,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    /// Only this component, e.g. `vae`; may be given several times.
    #[arg(long = "component", value_name = "KIND")]
    components: Vec<String>,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    /// Only on devices with this label; may be given several times.
    #[arg(long = "label")]
    labels: Vec<String>,

    #[command(flatten)]
    keep: KeepArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

/// What is said about keeping what comes into RAM.
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// How long it stays in RAM, and on the device, after its last use: `10m`, `2h`, seconds, `-1` until it is evicted; `0`: in
    /// RAM for as long as it is in use, on the device until it is evicted.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) keep_alive: Option<KeepAlive>,

    /// Do not evict it from RAM or the device until it is unprotected.
    #[arg(long)]
    pub(super) protect: bool,
}

/// Options of `unload`.
#[derive(Debug, Args)]
pub struct UnloadArgs {
    /// Id or name of the model.
    model: String,

    #[command(flatten)]
    place: PlaceArgs,

    /// Only this component, e.g. `vae`; may be given several times.
    #[arg(long = "component", value_name = "KIND")]
    components: Vec<String>,

    /// Free the copies in RAM as well.
    #[arg(long)]
    from_ram: bool,

    /// Also what other models that are loaded there need, and what is protected; never what is in use.
    #[arg(long)]
    force: bool,

    /// Wait for the jobs that use it, instead of being refused while one does. Attached programs are not waited for.
    #[arg(long)]
    wait_for_jobs: bool,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    #[command(flatten)]
    wait: WaitArgs,
}

/// None means all.
pub(super) fn some(components: Vec<String>) -> Option<Vec<String>> {
    (!components.is_empty()).then_some(components)
}

pub(crate) async fn load(args: LoadArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = LoadRequest {
        target: args.place.target().unwrap_or_default(),
        components: some(args.components),
        priority: args.priority,
        labels: args.labels,
        keep_alive: args.keep.keep_alive,
        protect: args.keep.protect,
    };
    let job: JobView = client.post(&format!("/v1/models/{}/load", segment(&args.model)), &request).await?;
    settle(client, output, job, &format!("load {}", args.model), args.wait).await
}

pub(crate) async fn unload(args: UnloadArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = UnloadRequest {
        target: args.place.target(),
        components: some(args.components),
        from_ram: args.from_ram,
        force: args.force,
        wait_for_jobs: args.wait_for_jobs,
        priority: args.priority,
    };
    let job: JobView = client.post(&format!("/v1/models/{}/unload", segment(&args.model)), &request).await?;
    settle(client, output, job, &format!("unload {}", args.model), args.wait).await
}
