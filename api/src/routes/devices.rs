//! Devices with what they hold.

use axum::{Json, extract::State};
use shared::wire::DeviceView;

use crate::{
    extract::{NoParameters, Path},
    merge::View,
    owners::Owners,
    plan::get_device,
    problem::ApiError,
    state::AppState,
    views,
};

/// Lists devices
#[utoipa::path(get, path = "/v1/devices", operation_id = "listDevices", tag = "devices",
    responses((status = 200, description = "All devices", body = Vec<DeviceView>)))]
pub(crate) async fn list_devices(
    State(state): State<AppState>,
    _: NoParameters,
) -> Result<Json<Vec<DeviceView>>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let owners = Owners::of(&mut conn, view.held.iter().filter(|held| held.device.is_some())).await?;
    Ok(Json(view.devices.iter().map(|row| views::device(&view, row, &owners)).collect()))
}

/// Shows a device
#[utoipa::path(get, path = "/v1/devices/{device}", operation_id = "getDevice", tag = "devices",
    params(("device" = String, Path, description = "`host%2Fname`; `host/name` as two segments works as well")),
    responses((status = 200, description = "The device", body = DeviceView)))]
pub(crate) async fn get_one_device(
    State(state): State<AppState>,
    Path(device): Path<String>,
    _: NoParameters,
) -> Result<Json<DeviceView>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let row = get_device(&view, &device)?;
    let here = view.held.iter().filter(|held| held.device.as_deref() == Some(&row.id));
    let owners = Owners::of(&mut conn, here).await?;
    Ok(Json(views::device(&view, row, &owners)))
}
