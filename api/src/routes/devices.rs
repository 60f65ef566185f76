//! Devices with what they hold.

use axum::{Json, extract::State};
use shared::{db::farm::DeviceRow, ids::ComponentId, wire::DeviceView};

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
    let held = view.held.iter().filter(|held| held.device.is_some()).map(|held| held.component);
    let owners = Owners::of_ids(&mut conn, held.chain(view.devices.iter().flat_map(|row| bases(&view, row)))).await?;
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
    let here = view.held.iter().filter(|held| held.device.as_deref() == Some(&row.id)).map(|held| held.component);
    let owners = Owners::of_ids(&mut conn, here.chain(bases(&view, row))).await?;
    Ok(Json(views::device(&view, row, &owners)))
}

/// What the variants on a device are made from, which need not be there itself.
fn bases(view: &View, row: &DeviceRow) -> impl Iterator<Item = ComponentId> {
    view.live_device(row).into_iter().flat_map(|live| live.variants.iter().map(|variant| variant.base))
}
