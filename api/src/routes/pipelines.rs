//! Pipelines as they are: what is declared, where it is applied, what differs, what was done; and the jobs that apply and
//! restore them.

use axum::{
    extract::{OriginalUri, State},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use shared::{
    db::{
        DbError,
        pipelines::{self, EventRow, PipelineDeviceRow},
    },
    pipeline::{Declared, standing},
    wire::{
        JobView, Page, PipelineApplyRequest, PipelineDeviceDiff, PipelineDiff, PipelineEvent, PipelineRestoreRequest,
        PipelineView,
    },
};

use super::{page_size, paged};
use crate::{
    cursor::Position,
    extract::{Command, NoParameters, Path, Query},
    pipelines::{Names, changes, event, get, version_of, view, views, with_history},
    plan::{
        Order, Wanted,
        pipeline::{Manner, Where},
    },
    problem::ApiError,
    state::AppState,
    submit::submit,
    tag,
};

/// Which pipelines.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PipelinesQuery {
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists pipelines
///
/// By name, each with the devices that it is, was or is to be applied on.
#[utoipa::path(get, path = "/v1/pipelines", operation_id = "listPipelines", tag = "pipelines", params(PipelinesQuery),
    responses((status = 200, description = "One page", body = Page<PipelineView>)))]
pub(crate) async fn list_pipelines(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<PipelinesQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    let binding = "pipelines";
    let after = match &query.cursor {
        Some(cursor) => Some(state.cursors.read(binding, cursor)?.value),
        None => None,
    };
    let mut conn = state.connection().await?;
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = pipelines::list(&mut *conn, after.as_deref(), more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let items = views(&mut conn, &rows).await?;
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let position = Position { value: last.name.clone(), id: last.id.to_string() };
            Some(state.cursors.issue(binding, position)?)
        }
        None => None,
    };
    Ok(paged(&uri, items, next))
}

/// Shows a pipeline
///
/// What it declares, and how it stands on each device. `If-Match` of a change is compared with the declaration alone.
#[utoipa::path(get, path = "/v1/pipelines/{name}", operation_id = "getPipeline", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The pipeline", body = PipelineView), (status = 304, description = "Unchanged")))]
pub(crate) async fn get_one_pipeline(
    State(state): State<AppState>,
    Path(name): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = state.snapshot().await?;
    let row = get(&mut conn, &name).await?;
    let shown = view(&mut conn, &row).await?;
    Ok(tag::answer(&headers, version_of(&row), &shown))
}

/// Applies a pipeline
///
/// A job of a device: its models are loaded where they are not, and its stack of LoRAs is computed from the base, which stays as
/// it is. Without a target where it is applied already, else where the pipeline says; a parent with one child for each of
/// several devices. `dry_run` only says what would be loaded, evicted and computed. Earlier jobs that apply an older declaration
/// to the same device are cancelled.
#[utoipa::path(post, path = "/v1/pipelines/{name}/apply", operation_id = "applyPipeline", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name")), request_body = PipelineApplyRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn apply_pipeline(
    State(state): State<AppState>,
    Path(pipeline): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<PipelineApplyRequest>,
) -> Result<Response, ApiError> {
    let PipelineApplyRequest { target, dry_run, verify, priority } = body;
    let wanted =
        Wanted::Apply { pipeline, generation: None, manner: Manner { place: Where::At(target), dry_run, verify } };
    submit(&state, asked, Order { priority, ..Order::new(wanted) }).await
}

/// Restores a pipeline
///
/// A job for each device that it is applied on: the parts of its base run as they are again, byte for byte, and it is not
/// applied there by itself any more.
#[utoipa::path(post, path = "/v1/pipelines/{name}/restore", operation_id = "restorePipeline", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name")), request_body = PipelineRestoreRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn restore_pipeline(
    State(state): State<AppState>,
    Path(pipeline): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<PipelineRestoreRequest>,
) -> Result<Response, ApiError> {
    let PipelineRestoreRequest { target, verify, priority } = body;
    submit(
        &state,
        asked,
        Order { priority, ..Order::new(Wanted::Restore { pipeline, place: Where::At(target), verify }) },
    )
    .await
}

/// Compares what is declared with what is applied
///
/// For each device that it was applied on: what an application of the present declaration would change.
#[utoipa::path(get, path = "/v1/pipelines/{name}/diff", operation_id = "diffPipeline", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The differences", body = PipelineDiff)))]
pub(crate) async fn diff_pipeline(
    State(state): State<AppState>,
    Path(name): Path<String>,
    _: NoParameters,
) -> Result<axum::Json<PipelineDiff>, ApiError> {
    let mut conn = state.snapshot().await?;
    let row = get(&mut conn, &name).await?;
    let declared = row.declared()?;
    let mut there: Vec<(PipelineDeviceRow, Option<Declared>)> = Vec::new();
    for on in pipelines::of_pipeline(&mut *conn, row.id).await? {
        let applied = on.applied()?;
        there.push((on, applied));
    }
    let all = there.iter().filter_map(|(_, applied)| applied.as_ref()).chain([&declared]);
    let names = Names::read(&mut conn, all).await?;
    let differences = |(on, applied): &(PipelineDeviceRow, Option<Declared>)| {
        Ok::<_, DbError>(PipelineDeviceDiff {
            device: on.device.clone(),
            state: standing(&on.facts()?),
            applied_generation: on.applied_generation,
            changes: changes(applied.as_ref(), Some(&declared), &names),
        })
    };
    let devices = there.iter().map(differences).collect::<Result<_, _>>()?;
    Ok(axum::Json(PipelineDiff { name: row.name.clone(), generation: row.generation, devices }))
}

/// Lists what was done with a pipeline
///
/// The newest first: declarations, applications, restorations, failures, losses with a runner or host, and the removal. A name
/// stands for the pipeline that has it and for those that had it and were removed, an id for one of them.
#[utoipa::path(get, path = "/v1/pipelines/{name}/history", operation_id = "listPipelineHistory", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name, of a removed pipeline, too"), PipelinesQuery),
    responses((status = 200, description = "One page", body = Page<PipelineEvent>)))]
pub(crate) async fn pipeline_history(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Path(name): Path<String>,
    Query(query): Query<PipelinesQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    let mut conn = state.connection().await?;
    let ids = with_history(&mut conn, &name).await?;
    let binding = format!("pipeline history {name}");
    let before = match &query.cursor {
        Some(cursor) => Some(state.cursors.read(&binding, cursor)?.id.parse().map_err(ApiError::defect)?),
        None => None,
    };
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = pipelines::list_events(&mut *conn, &ids, before, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let position = Position { value: String::new(), id: last.seq.to_string() };
            Some(state.cursors.issue(&binding, position)?)
        }
        None => None,
    };
    let mut sides: Vec<(EventRow, [Option<Declared>; 2])> = Vec::new();
    for row in rows {
        let both = row.declared()?;
        sides.push((row, both));
    }
    let names = Names::read(&mut conn, sides.iter().flat_map(|(_, both)| both.iter().flatten())).await?;
    let items =
        sides.into_iter().map(|(row, [before, after])| event(row, before.as_ref(), after.as_ref(), &names)).collect();
    Ok(paged(&uri, items, next))
}
