//! What people say of a model: read, replaced or changed in part, with its history. It is written to disk only by a job.

use axum::{
    extract::{OriginalUri, State},
    http::{HeaderMap, header},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::{
    db::{
        DbError,
        models::{self, MetadataChangeRow, MetadataRow, ModelRow},
    },
    wire::{JobView, MetadataChange, MetadataView, MetadataWriteRequest, Page, UserMetadata},
};

use super::{page_size, paged};
use crate::{
    cursor::Position,
    edit::{Edit, merge},
    extract::{Command, NoParameters, Path, Query, parse_value},
    plan::{Order, Wanted, get_model},
    problem::ApiError,
    rules,
    state::AppState,
    submit::submit,
    tag,
};

/// A row as the wire shows it.
pub(super) fn said(row: &MetadataRow) -> UserMetadata {
    UserMetadata {
        title: row.title.clone(),
        description: row.description.clone(),
        tags: row.tags.clone(),
        notes: row.notes.clone(),
        rating: row.rating.and_then(|rating| u8::try_from(rating).ok()),
        license: row.license.clone(),
        extra: row.extra.as_object().cloned().unwrap_or_default(),
    }
}

fn row_of(said: UserMetadata) -> MetadataRow {
    MetadataRow {
        title: said.title,
        description: said.description,
        tags: said.tags,
        notes: said.notes,
        rating: said.rating.map(i16::from),
        license: said.license,
        extra: Value::Object(said.extra),
        ..MetadataRow::default()
    }
}

fn view(model: &ModelRow, row: &MetadataRow) -> MetadataView {
    MetadataView {
        model: model.id,
        name: model.name.clone(),
        extracted: model.metadata.clone(),
        user: said(row),
        version: row.version,
        updated_at: row.updated_at,
    }
}

/// Shows a model's metadata
///
/// What its files say and what people say, apart. The ETag changes with both.
#[utoipa::path(get, path = "/v1/models/{model}/metadata", operation_id = "getModelMetadata", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The metadata", body = MetadataView), (status = 304, description = "Unchanged")))]
pub(crate) async fn get_metadata(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = state.connection().await?;
    let model = get_model(&mut conn, &model).await?;
    let row = models::metadata(&mut *conn, model.id).await?;
    Ok(tag::answer(&headers, row.version, &view(&model, &row)))
}

/// Replaces what people say of a model
///
/// What the body leaves out is cleared. With `If-Match` only if nothing changed since.
#[utoipa::path(put, path = "/v1/models/{model}/metadata", operation_id = "putModelMetadata", tag = "models",
    params(("model" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "ETag of the metadata as it was read"),
        ("Modelyard-Actor" = Option<String>, Header, description = "Who makes the change, for the history")),
    request_body = UserMetadata,
    responses((status = 200, description = "The metadata as it is now", body = MetadataView)))]
pub(crate) async fn put_metadata(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    edit: Edit<UserMetadata>,
) -> Result<Response, ApiError> {
    let Edit { body, headers, actor } = edit;
    change(&state, &model, &headers, &actor, |_| Ok(body)).await
}

/// Changes what people say of a model in part
///
/// A JSON Merge Patch: null clears, what is left out stays. With `If-Match` only if nothing changed since.
#[utoipa::path(patch, path = "/v1/models/{model}/metadata", operation_id = "patchModelMetadata", tag = "models",
    params(("model" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "ETag of the metadata as it was read"),
        ("Modelyard-Actor" = Option<String>, Header, description = "Who makes the change, for the history")),
    request_body(content = UserMetadata, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The metadata as it is now", body = MetadataView)))]
pub(crate) async fn patch_metadata(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    edit: Edit<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let Edit { body, headers, actor } = edit;
    change(&state, &model, &headers, &actor, |before| {
        let mut now = serde_json::to_value(before).map_err(ApiError::defect)?;
        merge(&mut now, Value::Object(body));
        parse_value("", now)
    })
    .await
}

/// One transaction: lock, compare, check, write, remember.
async fn change(
    state: &AppState,
    model: &str,
    headers: &HeaderMap,
    actor: &str,
    edit: impl FnOnce(&UserMetadata) -> Result<UserMetadata, ApiError>,
) -> Result<Response, ApiError> {
    let mut tx = state.begin().await?;
    let found = get_model(&mut tx, model).await?;
    let found = models::lock(&mut tx, found.id)
        .await?
        .ok_or_else(|| ApiError::not_found(format!("model `{model}` has just left the catalogue")))?;
    let row = models::metadata(&mut *tx, found.id).await?;
    tag::must_match(headers, &tag::of(row.version, &view(&found, &row)))?;
    let before = said(&row);
    let after = edit(&before)?;
    rules::metadata(&after)?;
    if after == before {
        return Ok(tag::answer(&HeaderMap::new(), row.version, &view(&found, &row)));
    }
    let json = |said: &UserMetadata| serde_json::to_value(said).map_err(ApiError::defect);
    let (old, new) = (json(&before)?, json(&after)?);
    let written = models::set_metadata(&mut tx, found.id, &row_of(after), actor, &old, &new).await?;
    tx.commit().await.map_err(DbError::from)?;
    Ok(tag::answer(&HeaderMap::new(), written.version, &view(&found, &written)))
}

/// Writes what is known of a model to disk
///
/// A job: a side-car (`<stem>.json` beside the model), or a copy of a safetensors file with the same tensors byte for byte and
/// the metadata in its header. The model's own files are only read. What is there already stays, unless `overwrite` is given and
/// a job of this kind wrote it. A scan of the root follows. With `If-Match` only if the metadata did not change since, also
/// when the job runs.
#[utoipa::path(post, path = "/v1/models/{model}/metadata/write", operation_id = "writeModelMetadata", tag = "models",
    params(("model" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "ETag of the metadata as it was read")),
    request_body = MetadataWriteRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn write_metadata(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
    Command { body, asked }: Command<MetadataWriteRequest>,
) -> Result<Response, ApiError> {
    let version =
        if headers.contains_key(header::IF_MATCH) { Some(seen(&state, &model, &headers).await?) } else { None };
    let (target, priority) = (body.target.clone(), body.priority);
    let wanted = Wanted::MetadataWrite { model, wanted: body, version, target };
    submit(&state, asked, Order { priority, ..Order::new(wanted) }).await
}

/// The version that the client has seen, if it is the present one.
async fn seen(state: &AppState, model: &str, headers: &HeaderMap) -> Result<i64, ApiError> {
    let mut conn = state.connection().await?;
    let found = get_model(&mut conn, model).await?;
    let row = models::metadata(&mut *conn, found.id).await?;
    tag::must_match(headers, &tag::of(row.version, &view(&found, &row)))?;
    Ok(row.version)
}

/// Which changes.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the changes of what people say of a model
///
/// The newest first.
#[utoipa::path(get, path = "/v1/models/{model}/metadata/history", operation_id = "listModelMetadataHistory", tag = "models",
    params(("model" = String, Path, description = "Id or name"), HistoryQuery),
    responses((status = 200, description = "One page", body = Page<MetadataChange>)))]
pub(crate) async fn metadata_history(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Path(model): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    let mut conn = state.connection().await?;
    let model = get_model(&mut conn, &model).await?;
    let binding = format!("metadata history {}", model.id);
    let before = match &query.cursor {
        Some(cursor) => Some(state.cursors.read(&binding, cursor)?.id.parse().map_err(ApiError::defect)?),
        None => None,
    };
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = models::metadata_history(&mut *conn, model.id, before, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let position = Position { value: String::new(), id: last.id.to_string() };
            Some(state.cursors.issue(&binding, position)?)
        }
        None => None,
    };
    let items = rows.into_iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    Ok(paged(&uri, items, next))
}

fn shown(row: MetadataChangeRow) -> Result<MetadataChange, ApiError> {
    let said = |value: Value| serde_json::from_value::<UserMetadata>(value).map_err(ApiError::defect);
    Ok(MetadataChange {
        version: row.version,
        at: row.at,
        who: row.who,
        before: said(row.before)?,
        after: said(row.after)?,
    })
}
