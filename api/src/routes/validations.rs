//! Validating a model, and what validations found.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use shared::{
    db::validations::{self, ValidationRow},
    ids::ValidationId,
    wire::{JobView, Page, ValidateRequest, ValidationReport, ValidationSummary},
};

use super::{id_of, paged};
use crate::{
    extract::{Command, NoParameters, Path},
    plan::{Order, Wanted, get_model},
    problem::ApiError,
    state::AppState,
    submit::submit,
    views,
};

/// Validates a model
///
/// A job of a host that has the files. A bad model is no failure of the job: its result has the `verdict` (`ok`, `degraded`,
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

/// Lists a model's validations
///
/// The newest first, without their findings; the last fifty are kept. `stale`: the files are others by now.
#[utoipa::path(get, path = "/v1/models/{model}/validations", operation_id = "listValidations", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 200, description = "All that are kept, on one page", body = Page<ValidationSummary>)))]
pub(crate) async fn list_validations(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Path(model): Path<String>,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let mut conn = state.connection().await?;
    let model = get_model(&mut conn, &model).await?;
    let rows = validations::of_model(&mut *conn, model.id).await?;
    Ok(paged(&uri, rows.iter().map(views::validation).collect(), None))
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
