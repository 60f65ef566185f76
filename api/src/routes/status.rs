//! What is resident where: the farm, all models page by page, one model, one device.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use serde::Deserialize;
use shared::{
    db::{jobs, models},
    ids::ModelId,
    wire::{DeviceModels, FarmStatus, ModelStatus, Page},
};

use super::{
    page_size, paged,
    search::{Question, page_of_models},
};
use crate::{
    extract::{NoParameters, Path, Query},
    merge::View,
    owners::Owners,
    plan::{get_device, get_model},
    problem::ApiError,
    state::AppState,
};

/// Page of a status list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatusQuery {
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Shows the farm at a glance
///
/// Every model with anything resident or loading.
#[utoipa::path(get, path = "/v1/status", operation_id = "getStatus", tag = "status",
    responses((status = 200, description = "The farm", body = FarmStatus)))]
pub(crate) async fn farm_status(State(state): State<AppState>, _: NoParameters) -> Result<Json<FarmStatus>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let owners = Owners::of(&mut conn, view.held.iter()).await?;
    let resident = owners.models();
    let ids: Vec<ModelId> = resident.iter().map(|(id, _)| *id).collect();
    let components = models::components_of(&mut *conn, &ids).await?;
    let active = jobs::active_for_models(&mut *conn, &ids).await?;
    let models_total = u64::try_from(models::count(&mut *conn).await?).unwrap_or(0);
    let models = resident.into_iter().map(|model| {
        let mut status = owners.status(model, &components, view.held.iter(), &view);
        status.jobs = active.iter().filter(|(of, _)| *of == status.model).map(|(_, job)| *job).collect();
        status
    });
    Ok(Json(FarmStatus { models_total, models: models.collect(), staleness: view.staleness.clone() }))
}

/// Lists the status of all models
///
/// Models by name, each with where its components are resident and which are not.
#[utoipa::path(get, path = "/v1/models/status", operation_id = "listModelStatus", tag = "status", params(StatusQuery),
    responses((status = 200, description = "One page", body = Page<ModelStatus>)))]
pub(crate) async fn models_status(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<StatusQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    let mut conn = state.connection().await?;
    let (rows, next) = page_of_models(&state, &mut conn, Question::default(), limit, query.cursor.as_deref()).await?;
    let view = View::read(&state, &mut conn).await?;
    let owners = Owners::of(&mut conn, view.held.iter()).await?;
    let ids: Vec<ModelId> = rows.iter().map(|row| row.id).collect();
    let components = models::components_of(&mut *conn, &ids).await?;
    let active = jobs::active_for_models(&mut *conn, &ids).await?;
    let items = rows.into_iter().map(|row| {
        let mut status = owners.status((row.id, row.name), &components, view.held.iter(), &view);
        status.jobs = active.iter().filter(|(of, _)| *of == status.model).map(|(_, job)| *job).collect();
        status
    });
    Ok(paged(&uri, items.collect(), next))
}

/// Shows the status of a model
#[utoipa::path(get, path = "/v1/models/{model}/status", operation_id = "getModelStatus", tag = "status",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 200, description = "Where it is resident", body = ModelStatus)))]
pub(crate) async fn model_status(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
) -> Result<Json<ModelStatus>, ApiError> {
    let mut conn = state.connection().await?;
    let row = get_model(&mut conn, &model).await?;
    let view = View::read(&state, &mut conn).await?;
    let owners = Owners::of(&mut conn, view.held.iter()).await?;
    let components = models::components_of(&mut *conn, &[row.id]).await?;
    let active = jobs::active_for_model(&mut *conn, row.id).await?;
    let mut status = owners.status((row.id, row.name), &components, view.held.iter(), &view);
    status.jobs = active.into_iter().map(|(job, ..)| job).collect();
    Ok(Json(status))
}

/// Shows the models on a device
#[utoipa::path(get, path = "/v1/devices/{device}/models/status", operation_id = "listDeviceModels", tag = "status",
    params(("device" = String, Path, description = "`host%2Fname`; `host/name` as two segments works as well")),
    responses((status = 200, description = "Models that hold memory on it", body = DeviceModels)))]
pub(crate) async fn device_models(
    State(state): State<AppState>,
    Path(device): Path<String>,
    _: NoParameters,
) -> Result<Json<DeviceModels>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let row = get_device(&view, &device)?;
    let here = || view.held.iter().filter(|held| held.device.as_deref() == Some(&row.id));
    let owners = Owners::of(&mut conn, here()).await?;
    let resident = owners.models();
    let ids: Vec<ModelId> = resident.iter().map(|(id, _)| *id).collect();
    let components = models::components_of(&mut *conn, &ids).await?;
    let active = jobs::active_for_models(&mut *conn, &ids).await?;
    let staleness = view.host(&row.host).map_or(view.staleness.clone(), crate::merge::HostNow::staleness);
    let models = resident.into_iter().map(|model| {
        let mut status = owners.status(model, &components, here(), &view);
        status.jobs = active.iter().filter(|(of, _)| *of == status.model).map(|(_, job)| *job).collect();
        status.staleness.clone_from(&staleness);
        status
    });
    let models = models.collect();
    Ok(Json(DeviceModels { device: row.id.clone(), models, staleness: staleness.clone() }))
}
