//! The catalogue, and loading and unloading one model.

use axum::{
    Json,
    extract::{OriginalUri, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use shared::{
    db::{
        hashes,
        models::{self, ComponentRow, ModelFilter, ModelRow, ModelSort},
    },
    ids::{ComponentId, ModelId},
    wire::{JobView, LoadRequest, ModelDetail, ModelSummary, Page, UnloadRequest},
};

use super::{list_of, page_size, paged};
use crate::{
    cursor::Position,
    extract::{Command, NoParameters, Path, Query},
    merge::View,
    plan::{Order, Wanted, get_model},
    problem::ApiError,
    state::AppState,
    submit::submit,
    views,
};

const STATES: [&str; 3] = ["available", "missing", "unreadable"];
const TIERS: [&str; 2] = ["ram", "vram"];

/// Which models, in which order.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ModelsQuery {
    /// Types, separated by commas: `checkpoint`, `vae`, `lora`, …
    #[serde(rename = "type")]
    model_type: Option<String>,
    /// Bases, separated by commas: `sd15`, `sdxl`, …
    base: Option<String>,
    /// Formats, separated by commas: `safetensors`, `diffusers`, …
    format: Option<String>,
    /// States, separated by commas: `available`, `missing`, `unreadable`.
    state: Option<String>,
    /// On the disk of this host.
    host: Option<String>,
    /// Part of the name, any case.
    q: Option<String>,
    /// With a component ready in this tier: `ram` or `vram`.
    tier: Option<String>,
    /// `name`, `size` or `created`; `-` in front reverses.
    sort: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ModelsQuery {
    fn filter(&self) -> Result<ModelFilter, ApiError> {
        let (sort, descending) = sort_of(self.sort.as_deref().unwrap_or("name"))?;
        if let Some(tier) = &self.tier
            && !TIERS.contains(&tier.as_str())
        {
            return Err(ApiError::field("tier", format!("`{tier}` is not one of ram, vram")));
        }
        Ok(ModelFilter {
            types: list_of("type", self.model_type.as_deref(), &[])?,
            bases: list_of("base", self.base.as_deref(), &[])?,
            formats: list_of("format", self.format.as_deref(), &[])?,
            states: list_of("state", self.state.as_deref(), &STATES)?,
            host: self.host.clone(),
            name_contains: self.q.clone(),
            resident: self.tier.clone(),
            sort,
            descending,
            after: None,
        })
    }
}

fn sort_of(text: &str) -> Result<(ModelSort, bool), ApiError> {
    let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
    let sort = match name {
        "name" => ModelSort::Name,
        "size" => ModelSort::Size,
        "created" => ModelSort::Created,
        _ => {
            return Err(ApiError::field(
                "sort",
                format!("`{text}` is not one of name, size, created, with or without `-`"),
            ));
        }
    };
    Ok((sort, descending))
}

/// One keyset page of models and the cursor of the next.
pub(super) async fn page_of_models(
    state: &AppState,
    conn: &mut shared::db::Session,
    mut filter: ModelFilter,
    limit: usize,
    cursor: Option<&str>,
) -> Result<(Vec<ModelRow>, Option<String>), ApiError> {
    let binding = format!("models {filter:?}");
    if let Some(cursor) = cursor {
        let Position { value, id } = state.cursors.read(&binding, cursor)?;
        filter.after = Some((value, id.parse().map_err(ApiError::defect)?));
    }
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = models::list(conn, &filter, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let position = Position { value: filter.sort.value(last), id: last.id.to_string() };
            Some(state.cursors.issue(&binding, position)?)
        }
        None => None,
    };
    Ok((rows, next))
}

/// Lists models
///
/// What the last scans found on disk, with where parts of each model are resident.
#[utoipa::path(get, path = "/v1/models", operation_id = "listModels", tag = "models", params(ModelsQuery),
    responses((status = 200, description = "One page", body = Page<ModelSummary>)))]
pub(crate) async fn list_models(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ModelsQuery>,
) -> Result<Response, ApiError> {
    let filter = query.filter()?;
    let limit = page_size(query.limit)?;
    let mut conn = state.connection().await?;
    let (rows, next) = page_of_models(&state, &mut conn, filter, limit, query.cursor.as_deref()).await?;
    let ids: Vec<ModelId> = rows.iter().map(|row| row.id).collect();
    let components = models::components_of(&mut *conn, &ids).await?;
    let view = View::read(&state, &mut conn).await?;
    let items = rows.into_iter().map(|row| {
        let residency = views::residency(&view, &ids_of(&components, row.id));
        views::model(row, residency)
    });
    Ok(paged(&uri, items.collect(), next))
}

fn ids_of(components: &[ComponentRow], model: ModelId) -> Vec<ComponentId> {
    components.iter().filter(|row| row.model_id == model).map(|row| row.id).collect()
}

/// Shows a model
///
/// With its components, locations, metadata and residency. The ETag changes with the row and with the residency.
#[utoipa::path(get, path = "/v1/models/{model}", operation_id = "getModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The model", body = ModelDetail), (status = 304, description = "Unchanged")))]
pub(crate) async fn get_one_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = state.connection().await?;
    let row = get_model(&mut conn, &model).await?;
    let components = models::components_of(&mut *conn, &[row.id]).await?;
    let locations = models::locations_of(&mut *conn, &[row.id]).await?;
    let autov1 = match row.sha256.as_deref() {
        Some(sha256) => hashes::autov1(&mut *conn, sha256).await?,
        None => None,
    };
    let view = View::read(&state, &mut conn).await?;
    let detail = ModelDetail {
        prediction: row.prediction.clone(),
        digest: row.content_digest.clone(),
        hashes: views::hashes(&row, autov1),
        root: row.root.clone(),
        rel_path: row.rel_path.clone(),
        evidence: row.evidence.clone(),
        metadata: row.metadata.clone(),
        components: components.iter().map(views::component).collect(),
        locations: locations.into_iter().map(views::location).collect(),
        version: row.version,
        summary: {
            let residency = views::residency(&view, &ids_of(&components, row.id));
            views::model(row, residency)
        },
    };
    Ok(tagged(&headers, &detail))
}

/// A strong validator must change whenever the answer does, so the version alone is not enough.
fn tagged(headers: &HeaderMap, detail: &ModelDetail) -> Response {
    let digest = Sha256::digest(serde_json::to_vec(detail).unwrap_or_default());
    let print: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{}.{print}\"", detail.version);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unchanged = known.flat_map(|value| value.split(',')).any(|given| matches_tag(given.trim(), &tag));
    let etag = [(header::ETAG, HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")))];
    if unchanged { (StatusCode::NOT_MODIFIED, etag).into_response() } else { (etag, Json(detail)).into_response() }
}

/// `If-None-Match` compares weakly (RFC 9110 §13.1.2).
fn matches_tag(given: &str, tag: &str) -> bool {
    given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag
}

/// Loads a model onto a device
///
/// A job: disk → RAM → device. An equal load that is still active is joined (`Modelyard-Joined: true`).
#[utoipa::path(post, path = "/v1/models/{model}/load", operation_id = "loadModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")), request_body = LoadRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn load_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<LoadRequest>,
) -> Result<Response, ApiError> {
    let wanted = Wanted::Load { model, components: body.components, target: body.target };
    let order = Order { priority: body.priority, labels: body.labels, ..Order::new(wanted) };
    submit(&state, asked, order).await
}

/// Unloads a model
///
/// A job for the device that holds it, or a parent with one child for each of several.
#[utoipa::path(post, path = "/v1/models/{model}/unload", operation_id = "unloadModel", tag = "models",
    params(("model" = String, Path, description = "Id or name")), request_body = UnloadRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn unload_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<UnloadRequest>,
) -> Result<Response, ApiError> {
    let wanted = Wanted::Unload { model, components: body.components, from_ram: body.from_ram, target: body.target };
    submit(&state, asked, Order { priority: body.priority, ..Order::new(wanted) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sort_keys_are_a_closed_set() {
        assert_eq!(sort_of("-size").unwrap(), (ModelSort::Size, true));
        assert!(sort_of("name; drop table models").is_err());
    }

    #[test]
    fn tags_compare_weakly() {
        assert!(matches_tag("W/\"1.ab\"", "\"1.ab\"") && matches_tag("*", "\"1.ab\""));
        assert!(!matches_tag("\"2.ab\"", "\"1.ab\""));
    }
}
