//! Memory: whose it is, and giving some back.

use axum::{Json, extract::State, response::Response};
use shared::{
    job::{OptimizeArgs, Target},
    wire::{HostMemoryView, JobView, OptimizeRequest},
};

use crate::{
    extract::{Command, NoParameters, Path},
    merge::View,
    plan::{Order, Wanted, get_host},
    problem::ApiError,
    state::AppState,
    submit::submit,
};

/// Shows whose memory it is
///
/// Every byte of a host's RAM and devices that is ours, by owner, with the system's own figures beside.
#[utoipa::path(get, path = "/v1/hosts/{host}/memory", operation_id = "getHostMemory", tag = "hosts",
    params(("host" = String, Path, description = "Name")),
    responses((status = 200, description = "The account", body = HostMemoryView)))]
pub(crate) async fn host_memory(
    State(state): State<AppState>,
    Path(host): Path<String>,
    _: NoParameters,
) -> Result<Json<HostMemoryView>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let host = get_host(&view, &host)?;
    let memory = host.live.as_ref().and_then(|live| live.memory.clone());
    Ok(Json(HostMemoryView { host: host.row.name.clone(), memory, staleness: host.staleness() }))
}

/// Frees memory of a host
///
/// Plans what to give back by the policy's scores: second copies, copies on `cpu:0` that are in RAM as well, then what is
/// cheapest to lose. Nothing that is in use or protected is touched; the result says by how much a goal was missed.
#[utoipa::path(post, path = "/v1/hosts/{host}/optimize", operation_id = "optimizeHost", tag = "hosts",
    params(("host" = String, Path, description = "Name")), request_body = OptimizeRequest,
    responses((status = 202, description = "Accepted; the result is an `OptimizeResult`", body = JobView)))]
pub(crate) async fn optimize_host(
    State(state): State<AppState>,
    Path(host): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<OptimizeRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(&body, Target::Host(host))).await
}

/// Frees memory of a device
///
/// As for a host, of one device: what is in RAM as well goes before what would have to be read from a disk.
#[utoipa::path(post, path = "/v1/devices/{device}/optimize", operation_id = "optimizeDevice", tag = "devices",
    params(("device" = String, Path, description = "`host%2Fname`; `host/name` as two segments works as well")),
    request_body = OptimizeRequest,
    responses((status = 202, description = "Accepted; the result is an `OptimizeResult`", body = JobView)))]
pub(crate) async fn optimize_device(
    State(state): State<AppState>,
    Path(device): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<OptimizeRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, order(&body, Target::Device(device))).await
}

fn order(body: &OptimizeRequest, target: Target) -> Order {
    let args = OptimizeArgs {
        device: None,
        free_bytes: body.free_bytes,
        headroom_bytes: body.headroom_bytes,
        dry_run: body.dry_run,
    };
    Order { priority: body.priority, ..Order::new(Wanted::Optimize { args, target }) }
}
