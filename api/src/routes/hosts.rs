//! Hosts, and taking one out of service.

use axum::{Json, extract::State};
use shared::{
    db::{
        DbError,
        farm::{self, Drain},
        listen,
    },
    wire::HostView,
};

use crate::{
    extract::{Command, NoBody, NoParameters, Path},
    merge::View,
    plan::get_host,
    problem::ApiError,
    state::AppState,
    views,
};

/// Lists hosts
#[utoipa::path(get, path = "/v1/hosts", operation_id = "listHosts", tag = "hosts",
    responses((status = 200, description = "All hosts", body = Vec<HostView>)))]
pub(crate) async fn list_hosts(
    State(state): State<AppState>,
    _: NoParameters,
) -> Result<Json<Vec<HostView>>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let roots = farm::list_roots(&mut *conn).await?;
    Ok(Json(view.hosts.iter().map(|host| views::host(&view, host, &roots)).collect()))
}

/// Shows a host
#[utoipa::path(get, path = "/v1/hosts/{host}", operation_id = "getHost", tag = "hosts",
    params(("host" = String, Path, description = "Name")),
    responses((status = 200, description = "The host", body = HostView)))]
pub(crate) async fn get_one_host(
    State(state): State<AppState>,
    Path(host): Path<String>,
    _: NoParameters,
) -> Result<Json<HostView>, ApiError> {
    shown(&state, &host).await
}

/// Drains a host
///
/// It gets no new work until it is undrained; work that runs there goes on. Idempotent.
#[utoipa::path(post, path = "/v1/hosts/{host}/drain", operation_id = "drainHost", tag = "hosts",
    params(("host" = String, Path, description = "Name")),
    responses((status = 200, description = "The host, draining", body = HostView)))]
pub(crate) async fn drain_host(
    State(state): State<AppState>,
    Path(host): Path<String>,
    _: NoParameters,
    _: Command<NoBody>,
) -> Result<Json<HostView>, ApiError> {
    set_draining(&state, &host, Drain::Asked).await
}

/// Undrains a host
///
/// It gets work again. Idempotent.
#[utoipa::path(post, path = "/v1/hosts/{host}/undrain", operation_id = "undrainHost", tag = "hosts",
    params(("host" = String, Path, description = "Name")),
    responses((status = 200, description = "The host, in service", body = HostView)))]
pub(crate) async fn undrain_host(
    State(state): State<AppState>,
    Path(host): Path<String>,
    _: NoParameters,
    _: Command<NoBody>,
) -> Result<Json<HostView>, ApiError> {
    set_draining(&state, &host, Drain::TakenBack).await
}

async fn set_draining(state: &AppState, host: &str, drain: Drain) -> Result<Json<HostView>, ApiError> {
    let mut tx = state.begin().await?;
    farm::set_draining(&mut tx, host, drain).await?;
    farm::notify(&mut *tx, listen::SCHEDULE, "").await?;
    tx.commit().await.map_err(DbError::from)?;
    // an unknown host is refused here, with near names
    shown(state, host).await
}

async fn shown(state: &AppState, name: &str) -> Result<Json<HostView>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(state, &mut conn).await?;
    let host = get_host(&view, name)?;
    let roots = farm::list_roots(&mut *conn).await?;
    Ok(Json(views::host(&view, host, &roots)))
}
