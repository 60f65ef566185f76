//! Validating a model, and what validations found.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use shared::{
    db::validations::{self, ValidationRow},
    ids::ValidationId,
    wire::{JobView, Page, ValidateRequest, ValidationReport, ValidationSummary},
};

use super::{id_of, page_size, paged};
use crate::{
    cursor::Position,
    extract::{Command, NoParameters, Path, Query},
    plan::{Order, Wanted, get_model},
    problem::ApiError,
    state::AppState,
    submit::submit,
    views,
};

/// Validates a model
///
/// A job of a host that has the files; with level `forward`, of a device: it loads the components that can be run and runs each
/// once, as small as it can be, after `architecture`; findings `forward_ran` have the statistics of the results. A bad model is no failure of the job: its result has the `verdict` (`ok`, `degraded`,
/// `invalid`, `unsafe`) and the id of the report (`validation`). Level `weights`, the default, includes `structure` and
/// `architecture`; `hash` includes `structure`.
#[utoipa::path(post, path = "/v1/models/{model}/validate", operation_id = "validateModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")), request_body = ValidateRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn validate_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<ValidateRequest>,
) -> Result<Response, ApiError> {
    let wanted = Wanted::Validate { model, level: body.level, target: body.target };
    submit(&state, asked, Order { priority: body.priority, ..Order::new(wanted) }).await
}

/// Which validations.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ValidationsQuery {
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists a model's validations
///
/// The newest first, without their findings; the last fifty are kept. `stale`: the files are others by now.
#[utoipa::path(get, path = "/v1/models/{model}/validations", operation_id = "listValidations", tag = "models",
    params(("model" = String, Path, description = "Id or name"), ValidationsQuery),
    responses((status = 200, description = "One page", body = Page<ValidationSummary>)))]
pub(crate) async fn list_validations(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Path(model): Path<String>,
    Query(query): Query<ValidationsQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    let mut conn = state.connection().await?;
    let model = get_model(&mut conn, &model).await?;
    let binding = format!("validations {}", model.id);
    let after = match &query.cursor {
        Some(cursor) => Some(position(state.cursors.read(&binding, cursor)?)?),
        None => None,
    };
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = validations::of_model(&mut *conn, model.id, after, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let value = last.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
            Some(state.cursors.issue(&binding, Position { value, id: last.id.to_string() })?)
        }
        None => None,
    };
    Ok(paged(&uri, rows.iter().map(views::validation).collect(), next))
}

fn position(at: Position) -> Result<(DateTime<Utc>, ValidationId), ApiError> {
    Ok((at.value.parse().map_err(ApiError::defect)?, at.id.parse().map_err(ApiError::defect)?))
}

/// Shows a validation
///
/// With its findings, worst first.
#[utoipa::path(get, path = "/v1/models/{model}/validations/{validation}", operation_id = "getValidation", tag = "models",
    params(("model" = String, Path, description = "Id or name"), ("validation" = String, Path, description = "Id")),
    responses((status = 200, description = "The report", body = ValidationReport)))]
pub(crate) async fn get_one_validation(
    State(state): State<AppState>,
    Path((model, validation)): Path<(String, String)>,
    _: NoParameters,
) -> Result<Json<ValidationReport>, ApiError> {
    let id: ValidationId = id_of(&validation)?;
    let mut conn = state.connection().await?;
    let model = get_model(&mut conn, &model).await?;
    let row = validations::find(&mut *conn, model.id, id).await?;
    let row = row.ok_or_else(|| {
        ApiError::not_found(format!("model `{}` has no validation `{id}`", model.name))
            .hint("the last fifty are kept; the list shows them")
    })?;
    report(row).map(Json)
}

fn report(row: ValidationRow) -> Result<ValidationReport, ApiError> {
    Ok(ValidationReport {
        summary: views::validation(&row),
        omitted: u64::try_from(row.omitted).unwrap_or(0),
        findings: serde_json::from_value(row.findings).map_err(ApiError::defect)?,
    })
}
