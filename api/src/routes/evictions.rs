//! What the tiers of hosts took out and why.

use std::collections::{BTreeSet, HashMap};

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    db::{
        Session,
        evictions::{self, EvictionFilter, EvictionRow},
        models,
    },
    ids::ComponentId,
    wire::{EvictionCandidate, EvictionView, Page},
};

use super::{id_of, page_size};
use crate::{extract::Query, plan::get_component, problem::ApiError, state::AppState};

/// Which decisions.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EvictionQuery {
    /// Only of this host.
    host: Option<String>,
    /// Only of this device, `host/name`.
    device: Option<String>,
    /// Only of this tier: `ram` or `vram`.
    tier: Option<String>,
    /// Only those that took out this component.
    component: Option<String>,
    /// At most so many, 1 to 1000; 100 when absent.
    limit: Option<u32>,
}

/// Lists evictions
///
/// Decisions that took components out of RAM or off devices, the newest first, each with its reason and the table of what else could have
/// gone. The last thousand of each host are kept.
#[utoipa::path(get, path = "/v1/cache/evictions", operation_id = "listEvictions", tag = "cache", params(EvictionQuery),
    responses((status = 200, description = "Decisions", body = Page<EvictionView>)))]
pub(crate) async fn list_evictions(
    State(state): State<AppState>,
    Query(query): Query<EvictionQuery>,
) -> Result<Json<Page<EvictionView>>, ApiError> {
    let limit = i64::try_from(page_size(query.limit)?).unwrap_or(i64::MAX);
    let mut conn = state.connection().await?;
    let component = match query.component.as_deref() {
        Some(text) => Some(get_component(&mut conn, id_of(text)?).await?.id),
        None => None,
    };
    let of_devices = match query.tier.as_deref() {
        None => None,
        Some("ram") => Some(false),
        Some("vram") => Some(true),
        Some(other) => return Err(ApiError::field("tier", format!("`{other}` is not one of ram, vram"))),
    };
    let (host, device) = (query.host.as_deref(), query.device.as_deref());
    for (name, value) in [("host", host), ("device", device)] {
        if value.is_some_and(|value| value.contains('\0')) {
            return Err(ApiError::field(name, "holds a NUL character"));
        }
    }
    let rows = evictions::list(&mut *conn, EvictionFilter { host, device, of_devices, component }, limit).await?;
    let items = shown(&mut conn, rows).await?;
    Ok(Json(Page { items, next_cursor: None }))
}

/// Decisions with the names of what they were about, as far as the catalogue knows them.
///
/// # Errors
/// Database errors; a stored table of another shape.
pub(super) async fn shown(conn: &mut Session, rows: Vec<EvictionRow>) -> Result<Vec<EvictionView>, ApiError> {
    let mut views = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    let candidates = views.iter().flat_map(|view| view.candidates.iter().map(|one| one.component));
    let ids: BTreeSet<ComponentId> = candidates.chain(views.iter().filter_map(|view| view.wanted)).collect();
    let names = names_of(conn, &ids.into_iter().collect::<Vec<_>>()).await?;
    for view in &mut views {
        view.wanted_name = view.wanted.and_then(|id| names.get(&id).cloned());
        for one in &mut view.candidates {
            one.name = names.get(&one.component).cloned();
        }
    }
    Ok(views)
}

/// `model/kind` of each component, by the first of its models; also under ids of before a merge.
async fn names_of(conn: &mut Session, ids: &[ComponentId]) -> Result<HashMap<ComponentId, String>, ApiError> {
    let merged: HashMap<ComponentId, ComponentId> = models::merged(&mut *conn, ids).await?.into_iter().collect();
    let now = |id: &ComponentId| merged.get(id).copied().unwrap_or(*id);
    let present: Vec<ComponentId> = ids.iter().map(now).collect();
    let mut names: HashMap<ComponentId, String> = HashMap::new();
    for owner in models::owners_of(&mut *conn, &present).await? {
        names.entry(owner.id).or_insert_with(|| format!("{}/{}", owner.model_name, owner.kind));
    }
    Ok(ids.iter().filter_map(|id| Some((*id, names.get(&now(id))?.clone()))).collect())
}

fn view(row: EvictionRow) -> Result<EvictionView, ApiError> {
    let candidates: Vec<EvictionCandidate> = serde_json::from_value(row.candidates).map_err(ApiError::defect)?;
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(EvictionView {
        host: row.host,
        device: (!row.device.is_empty()).then_some(row.device),
        at: row.at,
        reason: row.reason,
        policy: row.policy,
        wanted: row.wanted.and_then(|id| id.parse().ok()),
        wanted_name: None,
        wanted_bytes: unsigned(row.wanted_bytes),
        need_bytes: unsigned(row.need_bytes),
        freed_bytes: unsigned(row.freed_bytes),
        candidates,
        omitted: unsigned(row.omitted),
    })
}
