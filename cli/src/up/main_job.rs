//! The main job, visibly: scan → list → load one model → device status → unload → RAM cache status.

use std::time::Duration;

use serde::Serialize;
use shared::{
    error::ErrorCode,
    job::Target,
    wire::{CacheView, DeviceView, JobView, LoadRequest, ModelDetail, ModelStatus, ModelSummary, UnloadRequest},
};
use tokio::time::Instant;

use super::options::UpArgs;
use crate::{
    client::{Client, segment},
    commands::{cache, devices, models, scan},
    error::CliError,
    follow,
    output::Output,
};

/// Most time between the end of a job and its effect in the live status.
const STATUS_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// What the main job did.
#[derive(Debug, Serialize)]
pub(super) struct Work {
    scan: JobView,
    models: Vec<ModelSummary>,
    /// The model that was loaded.
    pub(super) model: String,
    load: JobView,
    device: DeviceView,
    /// None when the model was resident before and stays.
    unload: Option<JobView>,
    cache: CacheView,
}

/// Runs the main job through the API.
pub(super) async fn run(client: &Client, args: &UpArgs, output: Output) -> Result<Work, CliError> {
    let scan = scan(client, args, output).await?;
    let models: Vec<ModelSummary> = client.list("/v1/models", &[("sort", Some("name".to_owned()))], None).await?;
    heading(output, "models")?;
    show(output, || models::print(&models, output))?;

    let chosen = choose(&models, args.model.as_deref())?;
    let (name, resident_before) = (chosen.name.clone(), !chosen.residency.vram.is_empty());
    heading(output, &format!("load {name}"))?;
    let load = load(client, chosen, output).await?;

    let device = device_after(client, &load, chosen, output).await?;
    let unload = if resident_before {
        output.note(format!("{name} was on a device before this; it stays there"));
        None
    } else {
        heading(output, &format!("unload {name}"))?;
        Some(unload(client, chosen, output).await?)
    };
    let cache: CacheView = client.get("/v1/cache", &[]).await?;
    heading(output, "RAM cache")?;
    show(output, || cache::print(&cache, output))?;
    Ok(Work { scan, models, model: name, load, device, unload, cache })
}

/// Looks at the library; joins the scan that the agent makes when it starts.
pub(super) async fn scan(client: &Client, args: &UpArgs, output: Output) -> Result<JobView, CliError> {
    heading(output, "scan")?;
    let host = args.host.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let job: JobView = client.post("/v1/jobs", &scan::request(Some(host), None)).await?;
    follow::follow(client, output, &job, "scan", None).await
}

/// The named model, else the smallest checkpoint, else the smallest model that can be loaded.
fn choose<'a>(models: &'a [ModelSummary], wanted: Option<&str>) -> Result<&'a ModelSummary, CliError> {
    if let Some(wanted) = wanted {
        let named = |model: &&ModelSummary| model.name == wanted || model.id.to_string() == wanted;
        return models.iter().find(named).ok_or_else(|| no_model(wanted, models));
    }
    let usable = |model: &&ModelSummary| model.state == "available" && model.model_type != "unknown";
    let rank = |model: &&ModelSummary| (model.model_type != "checkpoint", model.size_bytes, model.name.clone());
    models.iter().filter(usable).min_by_key(rank).ok_or_else(|| {
        CliError::failed(ErrorCode::NotFound, "the scan found no model that can be loaded").hint(
            "put .safetensors files or diffusers folders into the library; the list above gives the reason of each \
             file that cannot be used",
        )
    })
}

fn no_model(wanted: &str, models: &[ModelSummary]) -> CliError {
    let near = shared::config::nearest(wanted, models.iter().map(|model| model.name.clone()));
    let failure = CliError::failed(ErrorCode::NotFound, format!("the scan found no model `{wanted}`"));
    match near {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure,
    }
}

async fn load(client: &Client, model: &ModelSummary, output: Output) -> Result<JobView, CliError> {
    let path = format!("/v1/models/{}/load", segment(&model.id.to_string()));
    let job: JobView = client.post(&path, &LoadRequest::default()).await?;
    follow::follow(client, output, &job, &format!("load {}", model.name), None).await
}

async fn unload(client: &Client, model: &ModelSummary, output: Output) -> Result<JobView, CliError> {
    let path = format!("/v1/models/{}/unload", segment(&model.id.to_string()));
    let request = UnloadRequest { target: Some(Target::All), ..UnloadRequest::default() };
    let job: JobView = client.post(&path, &request).await?;
    follow::follow(client, output, &job, &format!("unload {}", model.name), None).await
}

/// The device that the load went to, once the live status shows it.
async fn device_after(
    client: &Client,
    load: &JobView,
    model: &ModelSummary,
    output: Output,
) -> Result<DeviceView, CliError> {
    let id = load.device.clone().ok_or_else(|| {
        CliError::failed(ErrorCode::Internal, format!("load job {} succeeded without a device", load.id))
    })?;
    wait_for_status(client, model, &id).await?;
    let device: DeviceView = client.get(&format!("/v1/devices/{}", segment(&id)), &[]).await?;
    heading(output, "device")?;
    show(output, || devices::show(&device, output))?;
    Ok(device)
}

/// Waits until every component of the model shows on the device.
async fn wait_for_status(client: &Client, model: &ModelSummary, device: &str) -> Result<(), CliError> {
    let detail: ModelDetail = client.get(&format!("/v1/models/{}", model.id), &[]).await?;
    let deadline = Instant::now() + STATUS_PATIENCE;
    loop {
        let status: ModelStatus = client.get(&format!("/v1/models/{}/status", model.id), &[]).await?;
        let on_device =
            status.resident.iter().filter(|part| part.device.as_deref() == Some(device) && part.state == "ready");
        if on_device.count() >= detail.components.len() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let message = format!(
                "the load of {} succeeded, but {device} does not show all its components after {} s",
                model.name,
                STATUS_PATIENCE.as_secs()
            );
            return Err(CliError::failed(ErrorCode::Internal, message));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn heading(output: Output, text: &str) -> Result<(), CliError> {
    if output.json { Ok(()) } else { output.heading(text) }
}

fn show(output: Output, print: impl FnOnce() -> Result<(), CliError>) -> Result<(), CliError> {
    if output.json { Ok(()) } else { print() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{ids::ModelId, wire::Residency};

    fn model(name: &str, model_type: &str, size_bytes: u64, state: &str) -> ModelSummary {
        ModelSummary {
            id: ModelId::generate(),
            title: None,
            tags: Vec::new(),
            verdict: None,
            verdict_stale: false,
            rank: None,
            name: name.into(),
            model_type: model_type.into(),
            base: "sdxl".into(),
            format: "safetensors".into(),
            variant: None,
            size_bytes,
            state: state.into(),
            reason: None,
            residency: Residency::default(),
            created_at: chrono::Utc::now(),
            updated_at: chrono::Utc::now(),
        }
    }

    #[test]
    fn the_smallest_usable_checkpoint_is_chosen_before_any_other_type() {
        let models = [
            model("broken", "checkpoint", 1, "unreadable"),
            model("odd", "unknown", 1, "available"),
            model("vae", "vae", 2, "available"),
            model("big", "checkpoint", 9, "available"),
            model("small", "checkpoint", 5, "available"),
        ];
        assert_eq!(choose(&models, None).unwrap().name, "small");
        assert_eq!(choose(&models[..3], None).unwrap().name, "vae");
        assert_eq!(choose(&models[..2], None).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn a_model_that_is_not_there_gets_a_near_name() {
        let models = [model("sdxl-tiny", "checkpoint", 1, "available")];
        assert_eq!(
            choose(&models, Some("sdxl-tinny")).unwrap_err().advice().as_deref(),
            Some("did you mean `sdxl-tiny`?")
        );
    }
}
