//! Device memory: loading to and unloading from all suitable devices, or one.

use axum::{extract::State, response::Response};
use shared::{
    job::{Keep, Target},
    wire::{JobView, MultiLoadRequest},
};

use super::id_of;
use crate::{
    extract::{Command, NoBody, NoParameters, Path},
    plan::{Order, Wanted},
    problem::ApiError,
    state::AppState,
    submit::submit,
};

fn load(body: MultiLoadRequest, target: Target) -> Result<Order, ApiError> {
    if body.from_ram {
        return Err(ApiError::field("/from_ram", "`from_ram` says something about an unload only"));
    }
    if body.force {
        return Err(ApiError::field("/force", "`force` says something about an unload only"));
    }
    if body.wait_for_jobs {
        return Err(ApiError::field("/wait_for_jobs", "`wait_for_jobs` says something about an unload only"));
    }
    let keep = Keep { keep_alive: body.keep_alive, protect: body.protect };
    let wanted = Wanted::Load { model: body.model, components: body.components, target, keep };
    Ok(Order { priority: body.priority, ..Order::new(wanted) })
}

fn unload(body: MultiLoadRequest, target: Target) -> Result<Order, ApiError> {
    if body.protect || body.keep_alive.is_some() {
        return Err(ApiError::field("/keep_alive", "`keep_alive` and `protect` say something about a load only"));
    }
    let wanted = Wanted::Unload {
        model: body.model,
        components: body.components,
        from_ram: body.from_ram,
        force: body.force,
        wait_for_jobs: body.wait_for_jobs,
        target: Some(target),
    };
    Ok(Order { priority: body.priority, ..Order::new(wanted) })
}

/// Loads a model onto all suitable devices
///
/// A parent with one child for each ready device that is large enough and whose host has the files.
#[utoipa::path(post, path = "/v1/vram/load", operation_id = "loadEverywhere", tag = "vram",
    request_body = MultiLoadRequest, responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn load_everywhere(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<MultiLoadRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, load(body, Target::All)?).await
}

/// Unloads a model from all devices
///
/// A parent with one child for each device that holds it. Components that another model loaded there needs stay.
#[utoipa::path(post, path = "/v1/vram/unload", operation_id = "unloadEverywhere", tag = "vram",
    request_body = MultiLoadRequest, responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn unload_everywhere(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<MultiLoadRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, unload(body, Target::All)?).await
}

/// Loads a model onto a device
#[utoipa::path(post, path = "/v1/devices/{device}/vram/load", operation_id = "loadOnDevice", tag = "vram",
    params(("device" = String, Path, description = "`host%2Fname`; `host/name` as two segments works as well")),
    request_body = MultiLoadRequest, responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn load_on_device(
    State(state): State<AppState>,
    Path(device): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<MultiLoadRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, load(body, Target::Device(device))?).await
}

/// Unloads a model from a device
///
/// Components that another model loaded there needs stay, and the result says for whom.
#[utoipa::path(post, path = "/v1/devices/{device}/vram/unload", operation_id = "unloadFromDevice", tag = "vram",
    params(("device" = String, Path, description = "`host%2Fname`; `host/name` as two segments works as well")),
    request_body = MultiLoadRequest, responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn unload_from_device(
    State(state): State<AppState>,
    Path(device): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<MultiLoadRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, unload(body, Target::Device(device))?).await
}

/// Unloads a component from a device
///
/// Also when models that are loaded there need it.
#[utoipa::path(delete, path = "/v1/devices/{device}/vram/components/{component}",
    operation_id = "removeDeviceComponent", tag = "vram",
    params(("device" = String, Path, description = "`host%2Fname`; `host/name` as two segments works as well"),
        ("component" = String, Path, description = "Id")),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn remove_from_device(
    State(state): State<AppState>,
    Path((device, component)): Path<(String, String)>,
    _: NoParameters,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    let component = id_of(&component)?;
    submit(&state, asked, Order::new(Wanted::UnloadComponent { component, device: Some(device) })).await
}

/// Unloads a component from all devices
///
/// Also when models that are loaded there need it: one job for the device that holds it, or a parent with one child for each
/// of several.
#[utoipa::path(delete, path = "/v1/vram/components/{component}", operation_id = "removeComponentEverywhere", tag = "vram",
    params(("component" = String, Path, description = "Id")),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn remove_everywhere(
    State(state): State<AppState>,
    Path(component): Path<String>,
    _: NoParameters,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    let component = id_of(&component)?;
    submit(&state, asked, Order::new(Wanted::UnloadComponent { component, device: None })).await
}
