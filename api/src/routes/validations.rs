//! Validating a model, and what validations found.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use shared::{
    db::{
        Session,
        statistics::{self, StatisticsFilter},
        validations::{self, ValidationRow},
    },
    ids::ValidationId,
    job::ValidateLevel,
    wire::{JobView, Page, TensorStatisticsView, ValidateRequest, ValidationReport, ValidationSummary},
};

use super::{id_of, page_size, paged, without_nul};
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
    report(found(&mut conn, &model, id).await?).map(Json)
}

async fn found(conn: &mut Session, model: &str, id: ValidationId) -> Result<ValidationRow, ApiError> {
    let model = get_model(&mut *conn, model).await?;
    let row = validations::find(conn, model.id, id).await?;
    row.ok_or_else(|| {
        ApiError::not_found(format!("model `{}` has no validation `{id}`", model.name))
            .hint("the last fifty are kept; the list shows them")
    })
}

/// Which statistics.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatisticsQuery {
    /// Of this component: `unet`, `vae`, `text_encoder`, …
    component: Option<String>,
    /// With this text in the name in the file.
    name: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists what the numbers of a model's tensors are like
///
/// As a validation of level `weights` counted them, in the order of the files: mean, standard deviation, range, NaN and infinite
/// elements, and the largest magnitude beside the range of 16-bit floats. Kept of the newest such report of a host.
#[utoipa::path(get, path = "/v1/models/{model}/validations/{validation}/tensors", operation_id = "listTensorStatistics",
    tag = "models",
    params(("model" = String, Path, description = "Id or name"), ("validation" = String, Path, description = "Id"),
        StatisticsQuery),
    responses((status = 200, description = "One page", body = Page<TensorStatisticsView>)))]
pub(crate) async fn list_statistics(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Path((model, validation)): Path<(String, String)>,
    Query(query): Query<StatisticsQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    without_nul([("component", &query.component), ("name", &query.name)])?;
    let id: ValidationId = id_of(&validation)?;
    let mut conn = state.connection().await?;
    let row = found(&mut conn, &model, id).await?;
    must_have_statistics(&row)?;
    let mut filter = StatisticsFilter { component: query.component, text: query.name, after: 0 };
    let binding = format!("statistics {id} {filter:?}");
    if let Some(cursor) = &query.cursor {
        filter.after = state.cursors.read(&binding, cursor)?.id.parse().map_err(ApiError::defect)?;
    }
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = statistics::list(&mut *conn, id, &filter, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some((number, _)) => {
            let position = Position { value: String::new(), id: number.to_string() };
            Some(state.cursors.issue(&binding, position)?)
        }
        None => None,
    };
    Ok(paged(&uri, rows.into_iter().map(|(_, tensor)| views::statistics(tensor)).collect(), next))
}

fn must_have_statistics(row: &ValidationRow) -> Result<(), ApiError> {
    if row.statistics > 0 || row.level == ValidateLevel::Weights.as_str() && row.tensors == 0 {
        return Ok(());
    }
    let detail = format!("validation `{}` has no statistics of tensors (any more)", row.id);
    Err(ApiError::not_found(detail)
        .hint("a validation of level `weights` makes them; those of the newest one of a host are kept"))
}

fn report(row: ValidationRow) -> Result<ValidationReport, ApiError> {
    Ok(ValidationReport {
        summary: views::validation(&row),
        omitted: u64::try_from(row.omitted).unwrap_or(0),
        findings: serde_json::from_value(row.findings).map_err(ApiError::defect)?,
    })
}
