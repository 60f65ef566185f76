//! `modelyard devices`.

use clap::{Args, Subcommand};
use shared::wire::{DeviceVariant, DeviceView};

use super::{
    text::{RESIDENT, age, bytes, bytes_of, joined, resident_row, warn_stale},
    vitals,
};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Characters of a variant's key that tell it from others.
const KEY: usize = 12;

/// Lists devices when no subcommand is given.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    #[command(subcommand)]
    command: Option<DevicesCommand>,
}

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// List devices.
    #[command(visible_alias = "list")]
    Ls,
    /// One device and what it holds.
    Show {
        /// Id, e.g. `gpu-07/cuda:1`.
        device: String,
    },
}

pub(crate) async fn run(args: DevicesArgs, client: &Client, output: Output) -> Result<(), CliError> {
    match args.command.unwrap_or(DevicesCommand::Ls) {
        DevicesCommand::Ls => {
            let devices: Vec<DeviceView> = client.get("/v1/devices", &[]).await?;
            print(&devices, output)
        }
        DevicesCommand::Show { device } => {
            let device: DeviceView = client.get(&format!("/v1/devices/{}", segment(&device)), &[]).await?;
            if output.json { output.value(&device) } else { show(&device, output) }
        }
    }
}

/// Devices as a table.
pub(crate) fn print(devices: &[DeviceView], output: Output) -> Result<(), CliError> {
    if let Some(device) = devices.iter().find(|device| device.staleness.stale) {
        warn_stale(output, &device.staleness);
    }
    output.list(devices, &["DEVICE", "PRODUCT", "STATE", "USED", "COMPONENTS", "LABELS"], "no devices", |device| {
        vec![
            device.id.clone(),
            device.product.clone(),
            device.state.clone(),
            bytes_of(device.memory_used_bytes, device.memory_total_bytes),
            device.resident.len().to_string(),
            joined(&device.labels),
        ]
    })
}

/// One device with its components.
pub(crate) fn show(device: &DeviceView, output: Output) -> Result<(), CliError> {
    warn_stale(output, &device.staleness);
    let mut facts = vec![
        ("device", device.id.clone()),
        ("product", device.product.clone()),
        ("uuid", device.uuid.clone().unwrap_or_default()),
        ("state", device.state.clone()),
        ("reason", device.reason.clone().unwrap_or_default()),
        ("memory", bytes_of(device.memory_used_bytes, device.memory_total_bytes)),
        ("policy", device.policy.clone().unwrap_or_default()),
        ("reported", device.memory_system_bytes.map(bytes).unwrap_or_default()),
        ("labels", joined(&device.labels)),
    ];
    if let Some(vitals) = &device.vitals {
        facts.extend(vitals::facts(vitals));
    }
    output.facts(&facts)?;
    let header = [&RESIDENT[..], &["NEEDED BY"]].concat();
    output.section("resident", &device.resident, &header, "nothing", |resident| {
        let mut row = resident_row(resident);
        row.push(joined(&resident.needed_by));
        row
    })?;
    variants([device], output)
}

/// The variants on these devices: what LoRAs made of components, beside them. Nothing is said where there are none.
pub(super) fn variants<'a>(devices: impl IntoIterator<Item = &'a DeviceView>, output: Output) -> Result<(), CliError> {
    let of = |device: &'a DeviceView| device.variants.iter().map(move |variant| (&device.id, variant));
    let variants: Vec<(&String, &DeviceVariant)> = devices.into_iter().flat_map(of).collect();
    if variants.is_empty() {
        return Ok(());
    }
    let header = ["BASE", "COMPONENT", "PLACE", "BYTES", "LORAS", "PIPELINES", "MADE IN", "USED", "KEY"];
    output.section("variants", &variants, &header, "none", |(device, DeviceVariant { model_name, variant })| {
        let keep = if variant.protected { " (kept)" } else { "" };
        let instead = if variant.whole { " (in place of the base)" } else { "" };
        vec![
            model_name.clone().unwrap_or_else(|| variant.base.to_string()),
            format!("{}{instead}", variant.kind),
            (*device).clone(),
            format!("{}{keep}", bytes(variant.bytes)),
            joined(&variant.loras),
            joined(&variant.pipelines),
            format!("{:.2} s", variant.seconds),
            age(variant.last_used),
            variant.key.chars().take(KEY).collect(),
        ]
    })
}
