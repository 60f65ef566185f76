//! Planning a hash job: on one host, or on every living host that has the root or the model.

use shared::{
    db::{Session, farm, models},
    job::{HashArgs, JobSpec, Target, enqueue::Needs},
};

use super::{Decision, Spread, get_model, places::hosts_of};
use crate::{merge::View, near, problem::ApiError};

/// Decides about hashing.
///
/// # Errors
/// 400 for a model and a root together; 404 for a host, model or root that is not there; 409 when no living host has it.
pub(super) async fn decide(
    conn: &mut Session,
    view: &View,
    model: Option<&str>,
    root: Option<&str>,
    target: &Target,
) -> Result<Decision, ApiError> {
    if model.is_some() && root.is_some() {
        return Err(ApiError::field("/root", "name a model or a root, not both"));
    }
    let meant = hosts_of(view, target, "hash")?;
    let alive = meant.iter().filter(|host| host.row.alive).map(|host| host.row.name.as_str());
    let (model, having) = match model {
        Some(name) => {
            let row = get_model(conn, name).await?;
            let hosts = models::hosts_with(&mut *conn, &[row.id]).await?;
            (Some(row.id), hosts.into_iter().map(|(_, host)| host).collect())
        }
        None => (None, hosts_with_root(conn, root).await?),
    };
    let places: Vec<Target> =
        alive.filter(|host| having.iter().any(|name| name == host)).map(|host| Target::Host(host.to_owned())).collect();
    let spec = JobSpec::Hash(HashArgs { model, root: root.map(str::to_owned) });
    let needs = Needs::default();
    match (<[Target; 1]>::try_from(places), target) {
        (Ok([only]), Target::Any | Target::Host(_)) => {
            Ok(Decision { spec, target: only, spread: Spread::One, needs, left_out: Vec::new() })
        }
        (Ok(only), _) => {
            Ok(Decision { spec, target: Target::All, spread: Spread::Places(only.into()), needs, left_out: Vec::new() })
        }
        (Err(places), _) if places.is_empty() => {
            Err(ApiError::conflict("no living host that is meant has these files")
                .hint("scan again, or start the host that has them"))
        }
        (Err(places), _) => {
            Ok(Decision { spec, target: Target::All, spread: Spread::Places(places), needs, left_out: Vec::new() })
        }
    }
}

async fn hosts_with_root(conn: &mut Session, root: Option<&str>) -> Result<Vec<String>, ApiError> {
    let roots = farm::list_roots(conn).await?;
    if let Some(wanted) = root
        && !roots.iter().any(|row| row.name == wanted)
    {
        let names = roots.iter().map(|row| row.name.clone());
        return Err(ApiError::not_found(format!("there is no root `{wanted}`")).maybe_hint(near::hint(wanted, names)));
    }
    Ok(roots.into_iter().filter(|row| root.is_none_or(|root| row.name == root)).map(|row| row.host).collect())
}
