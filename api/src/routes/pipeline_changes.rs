//! Changes of what pipelines declare. What is to be applied with a change is enqueued in the transaction that makes it.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use shared::{
    db::{
        DbError, Transaction, jobs,
        pipelines::{self, Event, PipelineRow},
    },
    error::ErrorCode,
    ids::JobId,
    job::{JobKind, NewJob, enqueue::enqueue},
    pipeline::Declared,
    wire::{LorasPatch, PipelineDeclaration, PipelineRemoved, PipelineView},
};

use crate::{
    edit::{Edit, actor},
    extract::{NoParameters, Path, Query},
    merge::View,
    pipelines::{Names, check, check_name, declaration, lock, patched, version_of, view},
    plan::pipeline::{self, Manner, Where},
    problem::ApiError,
    state::AppState,
    submit::enqueue_plan,
    tag,
};

/// Declares a pipeline
///
/// New, or in place of what it declared. Nothing is applied unless `apply` is true; `diff` shows what is not as declared. With
/// `If-Match` only if it was not declared anew since.
#[utoipa::path(put, path = "/v1/pipelines/{name}", operation_id = "putPipeline", tag = "pipelines",
    params(("name" = String, Path, description = "1 to 100 letters, digits, `.`, `_` and `-`"),
        ("If-Match" = Option<String>, Header, description = "ETag of the pipeline as it was read"),
        ("Modelyard-Actor" = Option<String>, Header, description = "Who makes the change, for the history")),
    request_body = PipelineDeclaration,
    responses((status = 200, description = "The pipeline as it is now", body = PipelineView),
        (status = 201, description = "It is new", body = PipelineView)))]
pub(crate) async fn put_pipeline(
    State(state): State<AppState>,
    Path(name): Path<String>,
    _: NoParameters,
    edit: Edit<PipelineDeclaration>,
) -> Result<Response, ApiError> {
    let Edit { body, headers, actor } = edit;
    check_name(&name)?;
    let mut tx = state.begin().await?;
    let row = pipelines::lock(&mut tx, &name).await?;
    must_be_seen(&headers, row.as_ref())?;
    let apply = body.apply.unwrap_or(false);
    declare(&state, tx, (&name, row), body, (&actor, apply)).await
}

/// Changes a pipeline's stack of LoRAs
///
/// Weights by name, LoRAs that come and that leave. Applied at once where the pipeline is applied, unless `apply` is false; only
/// what the changed LoRAs touch is computed again. With `If-Match` only if it was not declared anew since.
#[utoipa::path(patch, path = "/v1/pipelines/{name}/loras", operation_id = "patchPipelineLoras", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "ETag of the pipeline as it was read"),
        ("Modelyard-Actor" = Option<String>, Header, description = "Who makes the change, for the history")),
    request_body = LorasPatch,
    responses((status = 200, description = "The pipeline as it is now", body = PipelineView)))]
pub(crate) async fn patch_loras(
    State(state): State<AppState>,
    Path(name): Path<String>,
    _: NoParameters,
    edit: Edit<LorasPatch>,
) -> Result<Response, ApiError> {
    let Edit { body, headers, actor } = edit;
    let mut tx = state.begin().await?;
    let row = lock(&mut tx, &name).await?;
    must_be_seen(&headers, Some(&row))?;
    let before = row.declared()?;
    let names = Names::read(&mut tx, [&before]).await?;
    let mut after = declaration(&row, &before, &names)?;
    let applied = pipelines::of_pipeline(&mut *tx, row.id).await?.iter().any(|on| on.desired == "applied");
    let apply = body.apply.unwrap_or(applied);
    after.loras = patched(after.loras, body, |wanted, there| names.means(wanted, there))?;
    let name = row.name.clone();
    declare(&state, tx, (&name, Some(row)), after, (&actor, apply)).await
}

fn must_be_seen(headers: &HeaderMap, row: Option<&PipelineRow>) -> Result<(), ApiError> {
    match row {
        Some(row) => tag::must_match_version(headers, version_of(row)),
        None if headers.contains_key(header::IF_MATCH) => Err(ApiError::new(
            ErrorCode::Precondition,
            "there is no such pipeline (any more) that `if-match` could name",
        )),
        None => Ok(()),
    }
}

/// The locked pipeline, or none yet, is declared as given; one transaction with the jobs that apply it.
async fn declare(
    state: &AppState,
    mut tx: Transaction,
    (name, row): (&str, Option<PipelineRow>),
    wanted: PipelineDeclaration,
    (actor, apply): (&str, bool),
) -> Result<Response, ApiError> {
    check(&wanted)?;
    let (assembly, subject) = pipeline::look_up(&mut tx, &wanted.assembly()).await?;
    let declared = Declared { assembly, keep_alive: wanted.keep_alive, protect: wanted.protect };
    let is_new = row.is_none();
    let row = write(&mut tx, (name, row), &wanted, &declared, actor).await?;
    let mut enqueued = false;
    if apply {
        let farm = View::read(state, &mut tx).await?;
        let there = pipelines::of_pipeline(&mut *tx, row.id).await?;
        let decision = pipeline::apply(&farm, (&row, &declared), &subject, &there, &Manner::default(), &row.labels)?;
        let mut plan = decision.plan();
        plan.job.need_labels.clone_from(&row.labels);
        enqueued = enqueue_plan(&mut tx, plan).await?.created;
    }
    let row = pipelines::find(&mut *tx, &row.id.to_string()).await?.unwrap_or(row);
    let shown = view(&mut tx, &row).await?;
    tx.commit().await.map_err(DbError::from)?;
    if enqueued {
        state.metrics.enqueued(JobKind::ApplyPipeline);
    }
    let answer = tag::answer(&HeaderMap::new(), version_of(&row), &shown);
    Ok(if is_new { (StatusCode::CREATED, answer).into_response() } else { answer })
}

/// What is declared is stored, with its history, unless it is declared so already.
async fn write(
    tx: &mut Transaction,
    (name, row): (&str, Option<PipelineRow>),
    wanted: &PipelineDeclaration,
    declared: &Declared,
    actor: &str,
) -> Result<PipelineRow, ApiError> {
    let (target, description) = (wanted.target.to_string(), wanted.description.as_deref());
    let place = (target.as_str(), wanted.labels.as_slice());
    let before = row.as_ref().map(PipelineRow::declared).transpose()?;
    let now = match row {
        Some(row)
            if before.as_ref() == Some(declared)
                && (row.description.as_deref(), row.target.as_str(), row.labels.as_slice())
                    == (description, place.0, place.1) =>
        {
            return Ok(row);
        }
        Some(row) => pipelines::update(tx, row.id, description, declared, place).await?,
        None => pipelines::insert(tx, name, description, declared, place).await?.ok_or_else(|| {
            ApiError::conflict(format!("pipeline `{name}` was declared by somebody else just now")).hint("look at it")
        })?,
    };
    let event = Event {
        event: "declared",
        generation: now.generation,
        who: Some(actor),
        before: before.as_ref(),
        after: Some(declared),
        ..Event::default()
    };
    pipelines::add_event(&mut **tx, now.id, event).await?;
    Ok(now)
}

/// How to remove.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Also while it is applied: it is restored there.
    #[serde(default)]
    force: bool,
}

/// Removes a pipeline
///
/// Refused while it is applied or about to be, unless `force` is given; then it is restored where it is applied. Its history stays.
#[utoipa::path(delete, path = "/v1/pipelines/{name}", operation_id = "deletePipeline", tag = "pipelines",
    params(("name" = String, Path, description = "Id or name"), RemoveQuery,
        ("If-Match" = Option<String>, Header, description = "ETag of the pipeline as it was read"),
        ("Modelyard-Actor" = Option<String>, Header, description = "Who removes it, for the history")),
    responses((status = 200, description = "It is removed", body = PipelineRemoved)))]
pub(crate) async fn delete_pipeline(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
    headers: HeaderMap,
) -> Result<axum::Json<PipelineRemoved>, ApiError> {
    let who = actor(&headers)?;
    let mut tx = state.begin().await?;
    let row = lock(&mut tx, &name).await?;
    must_be_seen(&headers, Some(&row))?;
    let there = pipelines::of_pipeline(&mut *tx, row.id).await?;
    let each = pipeline::restorations(&row, &there, &Where::default(), false)?;
    let coming = match row.job_id {
        Some(id) => jobs::find(&mut *tx, id).await?.filter(|job| job.finished_at.is_none()).map(|job| job.id),
        None => None,
    };
    if let Some(job) = coming.filter(|_| !query.force && each.is_empty()) {
        let detail = format!("pipeline `{}` is about to be applied by job {job}", row.name);
        return Err(ApiError::conflict(detail).hint("cancel the job first, or remove the pipeline with `force`"));
    }
    if !query.force && !each.is_empty() {
        let places: Vec<String> = each.iter().map(|(target, _)| target.to_string()).collect();
        let detail = format!("pipeline `{}` is applied at {}", row.name, places.join(", "));
        return Err(ApiError::conflict(detail).hint("restore it first, or remove it with `force`"));
    }
    // one that restores goes on, and is joined
    let applying = there.iter().filter(|on| on.desired == "applied").filter_map(|on| on.job_id);
    let mut earlier: Vec<JobId> = applying.chain(coming).collect();
    earlier.sort_unstable();
    earlier.dedup();
    jobs::lock_all(&mut tx, &earlier).await?;
    for job in earlier {
        jobs::cancel(&mut tx, job).await?;
    }
    let mut restoring = Vec::new();
    for (target, spec) in each {
        restoring.push(enqueue(&mut tx, NewJob::new(spec, target)).await?.id);
    }
    let (who, name) = (Some(who.as_str()), Some(row.name.as_str()));
    let event = Event { event: "removed", generation: row.generation, who, name, ..Event::default() };
    pipelines::add_event(&mut *tx, row.id, event).await?;
    pipelines::remove(&mut tx, row.id).await?;
    tx.commit().await.map_err(DbError::from)?;
    restoring.iter().for_each(|_| state.metrics.enqueued(JobKind::RestorePipeline));
    Ok(axum::Json(PipelineRemoved { id: row.id, name: row.name, restoring }))
}
