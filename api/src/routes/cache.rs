//! The RAM tier: status, adding, clearing.

use axum::{Json, extract::State, response::Response};
use serde::Deserialize;
use shared::{
    db::{
        Session,
        evictions::{self, EvictionFilter},
        models,
    },
    ids::ComponentId,
    job::{Keep, Target},
    status::{AgeCount, CacheStats, EvictedCounts},
    wire::{CacheHost, CacheRequest, CacheView, CachedComponent, EvictionView, JobView},
};

use super::{evictions::shown, id_of};
use crate::{
    extract::{Command, NoBody, NoParameters, Path, Query},
    merge::{Held, View},
    owners::Owners,
    plan::{Cached, Order, Wanted, get_component},
    problem::ApiError,
    state::AppState,
    submit::submit,
    views,
};

/// On which host.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HostQuery {
    /// Only this host.
    host: Option<String>,
}

impl HostQuery {
    fn target(self) -> Target {
        self.host.map_or(Target::Any, Target::Host)
    }
}

/// Shows the RAM tier
///
/// Totals and components, for the farm and for each host.
#[utoipa::path(get, path = "/v1/cache", operation_id = "getCache", tag = "cache",
    responses((status = 200, description = "The RAM tier", body = CacheView)))]
pub(crate) async fn get_cache(State(state): State<AppState>, _: NoParameters) -> Result<Json<CacheView>, ApiError> {
    let mut conn = state.connection().await?;
    let view = View::read(&state, &mut conn).await?;
    let in_ram = || view.held.iter().filter(|held| held.device.is_none());
    let owners = Owners::of(&mut conn, in_ram()).await?;
    // a host that is gone holds nothing
    let hosts = view.hosts.iter().filter(|host| host.row.alive).map(|host| CacheHost {
        host: host.row.name.clone(),
        policy: host.live.as_ref().and_then(|live| live.ram_policy.clone()),
        pressure: host.live.as_ref().and_then(|live| live.pressure.clone()),
        stats: view.ram(host),
        components: owners.resident(in_ram().filter(|held| held.host == host.row.name)),
    });
    let hosts: Vec<CacheHost> = hosts.collect();
    let total = hosts.iter().fold(CacheStats::default(), |sum, host| add(sum, &host.stats));
    Ok(Json(CacheView { total, hosts, staleness: view.staleness.clone() }))
}

fn add(sum: CacheStats, more: &CacheStats) -> CacheStats {
    CacheStats {
        budget_bytes: sum.budget_bytes + more.budget_bytes,
        configured_bytes: sum.configured_bytes + more.configured_bytes,
        used_bytes: sum.used_bytes + more.used_bytes,
        reserved_bytes: sum.reserved_bytes + more.reserved_bytes,
        system_bytes: sum.system_bytes + more.system_bytes,
        hits: sum.hits + more.hits,
        misses: sum.misses + more.misses,
        joins: sum.joins + more.joins,
        evictions: sum.evictions + more.evictions,
        load_failures: sum.load_failures + more.load_failures,
        stalled_loads: sum.stalled_loads + more.stalled_loads,
        hung_disks: sum.hung_disks + more.hung_disks,
        loaded_bytes: sum.loaded_bytes + more.loaded_bytes,
        evicted: add_evicted(sum.evicted, more.evicted),
        evicted_bytes: sum.evicted_bytes + more.evicted_bytes,
        early_reloads: sum.early_reloads + more.early_reloads,
        eviction_ages: add_ages(sum.eviction_ages, &more.eviction_ages),
        eviction_ages_ms: sum.eviction_ages_ms + more.eviction_ages_ms,
    }
}

fn add_evicted(sum: EvictedCounts, more: EvictedCounts) -> EvictedCounts {
    EvictedCounts {
        room: sum.room + more.room,
        pressure: sum.pressure + more.pressure,
        expired: sum.expired + more.expired,
        requested: sum.requested + more.requested,
        cleared: sum.cleared + more.cleared,
        duplicate: sum.duplicate + more.duplicate,
        superseded: sum.superseded + more.superseded,
        optimized: sum.optimized + more.optimized,
    }
}

/// Steps with the same bound are added; an agent of another release may have others.
fn add_ages(mut sum: Vec<AgeCount>, more: &[AgeCount]) -> Vec<AgeCount> {
    for step in more {
        match sum.iter_mut().find(|there| there.up_to_seconds == step.up_to_seconds) {
            Some(there) => there.count += step.count,
            None => sum.push(*step),
        }
    }
    sum.sort_by_key(|step| step.up_to_seconds.unwrap_or(u64::MAX));
    sum
}

/// Shows a cached component
///
/// The component and its copies in RAM and on devices; no copies when it is not cached. Each copy says who leases or needs it,
/// when it expires and what would go before it; `last_eviction` and `last_device_eviction` say why it went last.
#[utoipa::path(get, path = "/v1/cache/components/{component}", operation_id = "getCachedComponent", tag = "cache",
    params(("component" = String, Path, description = "Id")),
    responses((status = 200, description = "The component", body = CachedComponent)))]
pub(crate) async fn get_cached(
    State(state): State<AppState>,
    Path(component): Path<String>,
    _: NoParameters,
) -> Result<Json<CachedComponent>, ApiError> {
    let id: ComponentId = id_of(&component)?;
    let mut conn = state.connection().await?;
    let row = get_component(&mut conn, id).await?;
    let view = View::read(&state, &mut conn).await?;
    let held = view.held.iter().filter(|held| held.component == id);
    let (on_devices, copies): (Vec<&Held>, Vec<&Held>) = held.partition(|held| held.device.is_some());
    let last_eviction = last(&mut conn, row.id, false).await?;
    let last_device_eviction = last(&mut conn, row.id, true).await?;
    let owner = models::owners_of(&mut *conn, &[id]).await?.into_iter().next();
    let owners = Owners::of(&mut conn, copies.iter().chain(&on_devices).copied()).await?;
    Ok(Json(CachedComponent {
        component: views::component(&row),
        model: row.model_id,
        model_name: owner.map(|owner| owner.model_name).unwrap_or_default(),
        copies: owners.resident(copies.into_iter()),
        on_devices: owners.resident(on_devices.into_iter()),
        last_eviction,
        last_device_eviction,
        staleness: view.staleness.clone(),
    }))
}

/// The last decision that took a component out of RAM, or off a device.
async fn last(conn: &mut Session, component: ComponentId, device: bool) -> Result<Option<EvictionView>, ApiError> {
    let filter = EvictionFilter { component: Some(component), of_devices: Some(device), ..EvictionFilter::default() };
    let rows = evictions::list(&mut *conn, filter, 1).await?;
    Ok(shown(conn, rows).await?.pop())
}

/// Caches a model in RAM
#[utoipa::path(post, path = "/v1/cache", operation_id = "addToCache", tag = "cache", request_body = CacheRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn add_to_cache(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<CacheRequest>,
) -> Result<Response, ApiError> {
    let keep = Keep { keep_alive: body.keep_alive, protect: body.protect };
    let wanted = Wanted::CacheAdd { model: body.model, components: body.components, target: body.target, keep };
    submit(&state, asked, Order { priority: body.priority, ..Order::new(wanted) }).await
}

/// Clears the RAM tier
///
/// Everything that is not in use: one job for the host that holds something, or a parent with one child for each of
/// several.
#[utoipa::path(delete, path = "/v1/cache", operation_id = "clearCache", tag = "cache", params(HostQuery),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn clear_cache(
    State(state): State<AppState>,
    Query(query): Query<HostQuery>,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    submit(
        &state,
        asked,
        Order::new(Wanted::CacheRemove { what: Cached::All, cancel_loads: false, target: query.target() }),
    )
    .await
}

/// Where, and whether loads end.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Only this host.
    host: Option<String>,
    /// Also end a load of it into RAM that is under way, for every job that waits for it, once the host has a free slot.
    cancel_loads: bool,
}

/// Removes a component from RAM
///
/// One that is in use stays, and one that is being loaded, unless its load is to end: then every job that waits for that is
/// cancelled.
#[utoipa::path(delete, path = "/v1/cache/components/{component}", operation_id = "removeCachedComponent", tag = "cache",
    params(("component" = String, Path, description = "Id"), RemoveQuery),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn remove_cached(
    State(state): State<AppState>,
    Path(component): Path<String>,
    Query(RemoveQuery { host, cancel_loads }): Query<RemoveQuery>,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    let what = Cached::Component(id_of(&component)?);
    let target = HostQuery { host }.target();
    submit(&state, asked, Order::new(Wanted::CacheRemove { what, cancel_loads, target })).await
}

/// Protects a component in RAM
///
/// It is not evicted until it is unprotected. Protection ends with the agent that holds the bytes.
#[utoipa::path(post, path = "/v1/cache/components/{component}/protect", operation_id = "protectCachedComponent",
    tag = "cache", params(("component" = String, Path, description = "Id"), HostQuery),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn protect_cached(
    State(state): State<AppState>,
    Path(component): Path<String>,
    Query(query): Query<HostQuery>,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    submit(&state, asked, keep(&component, query, true)?).await
}

/// Unprotects a component in RAM
#[utoipa::path(post, path = "/v1/cache/components/{component}/unprotect", operation_id = "unprotectCachedComponent",
    tag = "cache", params(("component" = String, Path, description = "Id"), HostQuery),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn unprotect_cached(
    State(state): State<AppState>,
    Path(component): Path<String>,
    Query(query): Query<HostQuery>,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    submit(&state, asked, keep(&component, query, false)?).await
}

fn keep(component: &str, query: HostQuery, protect: bool) -> Result<Order, ApiError> {
    let (what, target) = (Cached::Component(id_of(component)?), query.target());
    Ok(Order::new(Wanted::CacheKeep { what, target, protect: Some(protect), keep_alive: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_added_step_by_step() {
        let step = |up_to_seconds, count| AgeCount { up_to_seconds, count };
        let sum =
            add_ages(vec![step(Some(1), 1), step(None, 2)], &[step(Some(1), 3), step(Some(60), 4), step(None, 5)]);
        assert_eq!(sum, [step(Some(1), 4), step(Some(60), 4), step(None, 7)]);
    }
}
