//! `modelyard status`: what is resident where.

use clap::Args;
use shared::wire::{DeviceModels, DeviceView, FarmStatus, JobView, ModelStatus, ResidentComponent};

use super::{
    devices, jobs,
    text::{RESIDENT, joined, resident_row, warn_stale},
};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this model, by id or name.
    model: Option<String>,

    /// Only this device.
    #[arg(long, value_name = "HOST/DEVICE", conflicts_with = "model")]
    device: Option<String>,
}

pub(crate) async fn run(args: StatusArgs, client: &Client, output: Output) -> Result<(), CliError> {
    match (args.model, args.device) {
        (Some(model), _) => {
            let status: ModelStatus = client.get(&format!("/v1/models/{}/status", segment(&model)), &[]).await?;
            if output.json { output.value(&status) } else { of_model(&status, output) }
        }
        (None, Some(device)) => {
            let path = format!("/v1/devices/{}/models/status", segment(&device));
            let held: DeviceModels = client.get(&path, &[]).await?;
            if output.json {
                return output.value(&held);
            }
            warn_stale(output, &held.staleness);
            output.list(&rows(&held.models), &RESIDENT, "nothing is resident there", resident_row)
        }
        (None, None) => farm(client, output).await,
    }
}

fn of_model(status: &ModelStatus, output: Output) -> Result<(), CliError> {
    warn_stale(output, &status.staleness);
    let jobs: Vec<String> = status.jobs.iter().map(ToString::to_string).collect();
    output.facts(&[
        ("model", status.name.clone()),
        ("id", status.model.to_string()),
        ("absent", joined(&status.absent)),
        ("jobs", joined(&jobs)),
    ])?;
    output.section("resident", &status.resident, &RESIDENT, "nothing", resident_row)
}

async fn farm(client: &Client, output: Output) -> Result<(), CliError> {
    let status: FarmStatus = client.get("/v1/status", &[]).await?;
    let devices: Vec<DeviceView> = client.get("/v1/devices", &[]).await?;
    let mut active: Vec<JobView> = Vec::new();
    for state in ["running", "placed", "pending"] {
        active.extend(client.list::<JobView>("/v1/jobs", &[("state", Some(state.to_owned()))], Some(20)).await?);
    }
    if output.json {
        return output.value(&serde_json::json!({ "status": status, "devices": devices, "jobs": active }));
    }
    devices::print(&devices, output)?;
    let title = format!("models with something resident, of {} in the catalogue", status.models_total);
    output.section(&title, &rows(&status.models), &RESIDENT, "none", resident_row)?;
    if !active.is_empty() {
        output.heading("jobs")?;
        jobs::print(&active, output)?;
    }
    Ok(())
}

fn rows(models: &[ModelStatus]) -> Vec<ResidentComponent> {
    models.iter().flat_map(|model| model.resident.clone()).collect()
}
