//! Planning a scan: of one host, or of every living host that has the root.

use shared::{
    db::{Session, farm},
    job::{JobSpec, ScanArgs, Target, enqueue::Needs},
};

use super::{Decision, Spread, places::hosts_of};
use crate::{merge::View, near, problem::ApiError};

/// Decides about a scan. `any` means every host: a scan of whichever host is free would say little.
///
/// # Errors
/// 404 for a host or root that is not there; 409 when no living host has it; database errors.
pub(super) async fn decide(
    conn: &mut Session,
    view: &View,
    root: Option<&str>,
    target: &Target,
) -> Result<Decision, ApiError> {
    let roots = farm::list_roots(conn).await?;
    let within: Vec<String> = hosts_of(view, target, "scan")?.iter().map(|host| host.row.name.clone()).collect();
    if let Some(wanted) = root
        && !roots.iter().any(|row| row.name == wanted && within.contains(&row.host))
    {
        let names = roots.iter().map(|row| row.name.clone()).collect::<std::collections::BTreeSet<_>>();
        return Err(
            ApiError::not_found(format!("there is no root `{wanted}` there")).maybe_hint(near::hint(wanted, names))
        );
    }
    let spec = JobSpec::Scan(ScanArgs { root: root.map(str::to_owned) });
    let needs = Needs::default();
    if let Target::Host(_) = target {
        return Ok(Decision { spec, target: target.clone(), spread: Spread::One, needs });
    }
    let has_root = |host: &str| roots.iter().any(|row| row.host == host && root.is_none_or(|root| root == row.name));
    let alive = view.hosts.iter().filter(|host| host.row.alive && has_root(&host.row.name));
    let mut places: Vec<Target> = alive.map(|host| Target::Host(host.row.name.clone())).collect();
    if places.len() == 1
        && *target == Target::Any
        && let Some(target) = places.pop()
    {
        return Ok(Decision { spec, target, spread: Spread::One, needs });
    }
    if places.is_empty() {
        return Err(ApiError::conflict("no living host has a model root to scan")
            .hint("start a worker with `--root NAME=PATH`"));
    }
    Ok(Decision { spec, target: Target::All, spread: Spread::Places(places), needs })
}
