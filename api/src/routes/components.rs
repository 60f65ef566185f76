//! Components over all models: which there are, in which models, and where they are resident.

use axum::{
    Json,
    extract::{OriginalUri, State},
    response::Response,
};
use serde::Deserialize;
use shared::{
    db::{
        Session,
        models::{self, ComponentFilter, OwnedComponent, SharedComponent as Row},
    },
    ids::ComponentId,
    wire::{ComponentView, Page, PartOf, SharedComponent},
};

use super::{id_of, list_of, page_size, paged};
use crate::{
    cursor::Position,
    extract::{NoParameters, Path, Query},
    merge::View,
    owners::Owners,
    problem::ApiError,
    state::AppState,
};

const TIERS: [&str; 2] = ["ram", "vram"];

/// Which components.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ComponentsQuery {
    /// Kinds, separated by commas: `unet`, `vae`, `text_encoder`, …
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Parts of this model: id or name.
    model: Option<String>,
    /// Ready in this tier: `ram` or `vram`.
    tier: Option<String>,
    /// Only those that several models contain.
    #[serde(default)]
    duplicates: bool,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ComponentsQuery {
    fn filter(&self) -> Result<ComponentFilter, ApiError> {
        if let Some(tier) = &self.tier
            && !TIERS.contains(&tier.as_str())
        {
            return Err(ApiError::field("tier", format!("`{tier}` is not one of ram, vram")));
        }
        Ok(ComponentFilter {
            kinds: list_of("type", self.kind.as_deref(), &[])?,
            model: self.model.clone(),
            resident: self.tier.clone(),
            min_models: if self.duplicates { 2 } else { 1 },
            after: None,
        })
    }
}

/// Lists components
///
/// Equal components are one row with all models that contain it: the digest of their tensors is known once they were
/// read. The row that could save most bytes on disk comes first; `duplicates=true` shows only such rows.
#[utoipa::path(get, path = "/v1/components", operation_id = "listComponents", tag = "components", params(ComponentsQuery),
    responses((status = 200, description = "One page", body = Page<SharedComponent>)))]
pub(crate) async fn list_components(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ComponentsQuery>,
) -> Result<Response, ApiError> {
    let mut filter = query.filter()?;
    let limit = page_size(query.limit)?;
    let binding = format!("components {filter:?}");
    if let Some(cursor) = &query.cursor {
        let Position { value, id } = state.cursors.read(&binding, cursor)?;
        let spare = value.parse().map_err(ApiError::defect)?;
        filter.after = Some((spare, id.parse().map_err(ApiError::defect)?));
    }
    let mut conn = state.connection().await?;
    let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = models::list_components(&mut *conn, &filter, more).await?;
    let next = (rows.len() > limit).then_some(());
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next.is_some()) {
        Some(last) => {
            let position = Position { value: last.spare_bytes.to_string(), id: last.id.to_string() };
            Some(state.cursors.issue(&binding, position)?)
        }
        None => None,
    };
    let view = View::read(&state, &mut conn).await?;
    Ok(paged(&uri, described(&mut conn, rows, &view).await?, next))
}

/// Shows a component
#[utoipa::path(get, path = "/v1/components/{component}", operation_id = "getComponent", tag = "components",
    params(("component" = String, Path, description = "Id")),
    responses((status = 200, description = "The component", body = SharedComponent)))]
pub(crate) async fn get_one_component(
    State(state): State<AppState>,
    Path(component): Path<String>,
    _: NoParameters,
) -> Result<Json<SharedComponent>, ApiError> {
    let id: ComponentId = id_of(&component)?;
    let mut conn = state.connection().await?;
    let row = models::shared_component(&mut *conn, id).await?;
    let row = row.ok_or_else(|| ApiError::not_found(format!("there is no component `{id}`")))?;
    let view = View::read(&state, &mut conn).await?;
    let described = described(&mut conn, vec![row], &view).await?.pop();
    described.map(Json).ok_or_else(|| ApiError::not_found(format!("there is no component `{id}`")))
}

async fn described(conn: &mut Session, rows: Vec<Row>, view: &View) -> Result<Vec<SharedComponent>, ApiError> {
    let ids: Vec<ComponentId> = rows.iter().map(|row| row.id).collect();
    let parts = models::owners_of(&mut *conn, &ids).await?;
    let owners = Owners::of(conn, view.held.iter().filter(|held| ids.contains(&held.component))).await?;
    let describe = |row: Row| SharedComponent {
        models: parts.iter().filter(|part| part.id == row.id && part.is_on_disk).map(part_of).collect(),
        spare_bytes: unsigned(row.spare_bytes),
        resident: owners.resident(view.held.iter().filter(|held| held.component == row.id)),
        staleness: view.staleness.clone(),
        component: ComponentView {
            id: row.id,
            kind: row.kind,
            bytes: unsigned(row.bytes),
            param_count: unsigned(row.param_count),
            tensor_count: u32::try_from(row.tensor_count).unwrap_or(0),
            dtype: row.dtype,
            digest: row.digest,
        },
    };
    Ok(rows.into_iter().map(describe).collect())
}

fn part_of(part: &OwnedComponent) -> PartOf {
    PartOf { id: part.model_id, name: part.model_name.clone(), kind: part.kind.clone() }
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
