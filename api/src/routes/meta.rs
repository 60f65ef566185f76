//! The API about itself: health and the OpenAPI document.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{context::NO_STORE, extract::NoParameters, problem::ApiError, state::AppState};

/// Says that the process lives
#[utoipa::path(get, path = "/livez", operation_id = "getLiveness", tag = "meta", security(()),
    responses((status = 200, description = "Alive", body = String, content_type = "text/plain")))]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Says whether requests can be served
///
/// Proved by a write to Postgres that is rolled back. With `?verbose` as JSON per check.
#[utoipa::path(get, path = "/readyz", operation_id = "getReadiness", tag = "meta", security(()),
    params(("verbose" = Option<String>, Query, description = "Answer with JSON per check")),
    responses((status = 200, description = "Ready", body = String, content_type = "text/plain"),
        (status = 503, description = "Not ready, with the reason", body = String, content_type = "text/plain")))]
pub(crate) async fn readyz(State(state): State<AppState>, RawQuery(query): RawQuery) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("verbose")));
    let stopping = state.tasks.token().is_cancelled();
    let postgres = state.postgres_is_writable().await;
    let checks = [("postgres", postgres.err()), ("accepting", stopping.then(|| "the API is stopping".to_owned()))];
    let failed: Vec<_> = checks.iter().filter_map(|(name, why)| why.as_ref().map(|why| (name, why))).collect();
    let status = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !verbose {
        let lines: String = failed.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
        let text = if failed.is_empty() { "ok\n".to_owned() } else { lines };
        return (status, [(header::CACHE_CONTROL, NO_STORE)], text).into_response();
    }
    let list = checks.iter().map(|(name, why)| serde_json::json!({ "name": name, "ok": why.is_none(), "reason": why }));
    let body = serde_json::json!({ "ready": failed.is_empty(), "checks": list.collect::<Vec<_>>() });
    (status, [(header::CACHE_CONTROL, NO_STORE)], Json(body)).into_response()
}

/// Describes this API
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenApi", tag = "meta",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(crate) async fn openapi_json(_: NoParameters) -> Json<serde_json::Value> {
    Json(crate::openapi())
}

/// Whatever no route answers.
pub(crate) async fn nowhere() -> ApiError {
    ApiError::of_status(StatusCode::NOT_FOUND).hint("`/openapi.json` lists all paths")
}
