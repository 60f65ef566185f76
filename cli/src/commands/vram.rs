//! `modelyard vram`: components on devices; the same as `load`, `unload` and the device forms of `cache`, in one place.

use clap::{Args, Subcommand};
use shared::{
    ids::ComponentId,
    wire::{DeviceView, JobView, ResidentComponent},
};

use super::{
    devices,
    evictions::{self, EvictionArgs, ExplainArgs},
    load::{self, LoadArgs, UnloadArgs},
    settle,
    text::{RESIDENT, age, resident_row},
};
use crate::{
    args::WaitArgs,
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// What to do with the memory of devices.
#[derive(Debug, Subcommand)]
pub enum VramCommand {
    /// What is on the devices, and how much room they have.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Load a model: disk to RAM to a device.
    Load(LoadArgs),
    /// Free the device memory of a model.
    Unload(UnloadArgs),
    /// Free one component, whichever models need it: on every device that holds it, or on one.
    Rm(RemoveArgs),
    /// Why a component (or each of a model) is still in RAM or on a device, who holds it, when it would go, why it went last.
    Explain(ExplainArgs),
    /// What was taken off devices, and why.
    Evictions(EvictionArgs),
}

/// Options of `vram ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this device.
    #[arg(long, value_name = "HOST/DEVICE")]
    device: Option<String>,
}

/// Options of `vram rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Id of the component.
    component: ComponentId,

    /// Only on this device.
    #[arg(long, value_name = "HOST/DEVICE")]
    device: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn run(command: VramCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        VramCommand::Ls(args) => list(args, client, output).await,
        VramCommand::Load(args) => load::load(args, client, output).await,
        VramCommand::Unload(args) => load::unload(args, client, output).await,
        VramCommand::Rm(args) => remove(args, client, output).await,
        VramCommand::Explain(args) => evictions::explain(args, client, output).await,
        VramCommand::Evictions(args) => evictions::off_devices(args, client, output).await,
    }
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let devices: Vec<DeviceView> = match args.device {
        Some(device) => vec![client.get(&format!("/v1/devices/{}", segment(&device)), &[]).await?],
        None => client.get("/v1/devices", &[]).await?,
    };
    devices::print(&devices, output)?;
    if output.json {
        return Ok(());
    }
    let components: Vec<&ResidentComponent> = devices.iter().flat_map(|device| &device.resident).collect();
    let header = [&RESIDENT[..], &["USED", "ID"]].concat();
    output.section("components", &components, &header, "none", |component| {
        let mut row = resident_row(component);
        row.push(component.last_used.map(age).unwrap_or_default());
        row.push(component.component.to_string());
        row
    })?;
    devices::variants(&devices, output)
}

async fn remove(args: RemoveArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let component = args.component;
    let path = match args.device {
        Some(device) => format!("/v1/devices/{}/vram/components/{component}", segment(&device)),
        None => format!("/v1/vram/components/{component}"),
    };
    let job: JobView = client.delete(&path, &[]).await?;
    settle(client, output, job, &format!("free {component}"), args.wait).await
}
