//! Planning work on the RAM tier: adding a model, removing one, a component, or everything.

use std::collections::BTreeSet;

use shared::{
    bytes::ByteSize,
    db::{Session, residency},
    error::ErrorCode,
    ids::ComponentId,
    job::{CacheAddArgs, CacheKeepArgs, CacheRemoveArgs, JobSpec, Keep, KeepAlive, Target, enqueue::Needs},
};

use super::{
    Cached, Decision, Spread, Subject, get_component,
    places::{get_device, has_labels, hosts_of},
};
use crate::{
    merge::{HostNow, View},
    problem::ApiError,
};

/// Decides about caching a model.
///
/// # Errors
/// As for a load, with hosts and their RAM budgets in the place of devices.
pub(super) fn decide_add(
    view: &View,
    subject: &Subject,
    components: Option<Vec<String>>,
    keep: Keep,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let hosts = hosts_of(view, target, "cache_add")?;
    subject.must_be_loadable()?;
    let labelled = hosts.into_iter().filter(|host| has_labels(view, &host.row.name, &[], labels));
    let (with_file, others): (Vec<_>, Vec<_>) = labelled.partition(|host| subject.hosts.contains(&host.row.name));
    let candidates = if with_file.is_empty() { &others } else { &with_file };
    must_fit_a_budget(subject, candidates)?;
    let spread = match target {
        Target::All => Spread::Places(hosts_that_can(subject, &with_file)?),
        _ => Spread::One,
    };
    let spec = JobSpec::CacheAdd(CacheAddArgs {
        model: subject.model.id,
        components,
        keep_alive: keep.keep_alive,
        protect: keep.protect,
    });
    Ok(Decision { spec, target: target.clone(), spread, needs: subject.needs(), left_out: Vec::new() })
}

fn must_fit_a_budget(subject: &Subject, candidates: &[&HostNow]) -> Result<(), ApiError> {
    let Some(largest) = candidates.iter().max_by_key(|host| host.row.ram_budget_bytes) else { return Ok(()) };
    let (needed, there) = (subject.bytes(), budget(largest));
    if needed <= there {
        return Ok(());
    }
    let detail = format!(
        "`{}` needs {} ({needed} bytes); the largest RAM budget of a host that may take it, `{}`, is {} ({there} bytes): {} ({} bytes) too little",
        subject.model.name,
        ByteSize(needed),
        largest.row.name,
        ByteSize(there),
        ByteSize(needed - there),
        needed - there,
    );
    Err(ApiError::new(ErrorCode::InsufficientCapacity, detail)
        .hint("removing other models cannot free that much; cache fewer components or raise the host's RAM budget"))
}

fn hosts_that_can(subject: &Subject, with_file: &[&HostNow]) -> Result<Vec<Target>, ApiError> {
    let can = with_file.iter().filter(|host| host.takes_work() && subject.bytes() <= budget(host));
    let places: Vec<Target> = can.map(|host| Target::Host(host.row.name.clone())).collect();
    if places.is_empty() {
        let detail =
            format!("no host that is ready has the files of `{}` and a large enough RAM budget", subject.model.name);
        return Err(ApiError::conflict(detail).hint("target `any` waits until one can"));
    }
    Ok(places)
}

fn budget(host: &HostNow) -> u64 {
    u64::try_from(host.row.ram_budget_bytes).unwrap_or(0)
}

/// Decides about freeing RAM: one job for each host that holds some of it.
///
/// # Errors
/// 404 for what is not there; 409 when a single component or model is in use or cached nowhere; database errors.
pub(super) async fn decide_remove(
    conn: &mut Session,
    view: &View,
    what: &Cached,
    cancel_loads: bool,
    target: &Target,
) -> Result<Decision, ApiError> {
    let within: Vec<String> =
        hosts_of(view, target, "cache_remove")?.iter().map(|host| host.row.name.clone()).collect();
    let Some((mut args, meant, label)) = meant(conn, what).await? else {
        if cancel_loads {
            return Err(ApiError::field("/cancel_loads", "name the model or the component whose loads are to end"));
        }
        let hosts = holders(conn, view, None).await?;
        let spec = JobSpec::CacheRemove(CacheRemoveArgs::default());
        return Ok(spread(spec, target, within.into_iter().filter(|host| hosts.contains(host)).collect()));
    };
    let hosts = holders(conn, view, Some(&meant)).await?;
    let places: Vec<String> = within.into_iter().filter(|host| hosts.contains(host)).collect();
    if places.is_empty() {
        return Err(ApiError::conflict(format!("{label} is not in RAM there")).hint("nothing has to be done"));
    }
    if !cancel_loads {
        // else the host decides, once the loads have ended: what is in use there stays
        must_not_be_leased(view, &meant, &places, &label)?;
    }
    args.cancel_loads = cancel_loads;
    Ok(spread(JobSpec::CacheRemove(args), target, places))
}

/// Decides about keeping what is in RAM, one job for each host that holds some of it, or what is on one device.
///
/// # Errors
/// 404 for what is not there; 409 when it is cached nowhere; database errors.
pub(super) async fn decide_keep(
    conn: &mut Session,
    view: &View,
    what: &Cached,
    target: &Target,
    protect: Option<bool>,
    keep_alive: Option<KeepAlive>,
) -> Result<Decision, ApiError> {
    if protect.is_none() && keep_alive.is_none() {
        return Err(ApiError::field("", "say `protect`, `keep_alive` or both"));
    }
    let Some((args, meant, label)) = meant(conn, what).await? else {
        return Err(ApiError::field("", "name a model or a component"));
    };
    let keep = CacheKeepArgs { model: args.model, component: args.component, protect, keep_alive, device: None };
    if let Target::Device(id) = target {
        return keep_on_device(conn, view, keep, (&meant, &label), id).await;
    }
    let hosts = hosts_of(view, target, "cache_keep")?;
    let holders = holders(conn, view, Some(&meant)).await?;
    let names = hosts.iter().map(|host| host.row.name.clone());
    let places: Vec<String> = names.filter(|host| holders.contains(host)).collect();
    if places.is_empty() {
        let detail = format!("{label} is not in RAM there");
        return Err(
            ApiError::conflict(detail).hint("cache it first; `protect` and `keep_alive` may be given with that")
        );
    }
    Ok(spread(JobSpec::CacheKeep(keep), target, places))
}

/// A job of the device's host, beside the work of the device: what is said holds at once.
async fn keep_on_device(
    conn: &mut Session,
    view: &View,
    keep: CacheKeepArgs,
    (meant, label): (&[ComponentId], &str),
    id: &str,
) -> Result<Decision, ApiError> {
    let device = get_device(view, id)?;
    let reported = residency::of_components(conn, meant).await?;
    let live = view.held.iter().any(|held| held.device.as_deref() == Some(id) && meant.contains(&held.component));
    if !live && !reported.iter().any(|row| row.device == id) {
        let detail = format!("{label} is not on device `{id}`");
        return Err(ApiError::conflict(detail).hint("load it first; `protect` and `keep_alive` may be given with that"));
    }
    let spec = JobSpec::CacheKeep(CacheKeepArgs { device: Some(device.id.clone()), ..keep });
    let (target, needs) = (Target::Host(device.host.clone()), Needs::default());
    Ok(Decision { spec, target, spread: Spread::One, needs, left_out: Vec::new() })
}

async fn meant(
    conn: &mut Session,
    what: &Cached,
) -> Result<Option<(CacheRemoveArgs, Vec<ComponentId>, String)>, ApiError> {
    Ok(match what {
        Cached::All => None,
        Cached::Model(model) => {
            let subject = Subject::read(conn, model, None).await?;
            let ids = subject.components.iter().map(|row| row.id).collect();
            let args = CacheRemoveArgs { model: Some(subject.model.id), ..CacheRemoveArgs::default() };
            Some((args, ids, format!("`{}`", subject.model.name)))
        }
        Cached::Component(id) => {
            let row = get_component(conn, *id).await?;
            let args = CacheRemoveArgs { component: Some(row.id), ..CacheRemoveArgs::default() };
            Some((args, vec![row.id], format!("component `{id}` ({})", row.kind)))
        }
    })
}

/// Hosts with any of these in RAM, by the live view or by the last report.
async fn holders(conn: &mut Session, view: &View, meant: Option<&[ComponentId]>) -> Result<BTreeSet<String>, ApiError> {
    let is_meant = |id: &ComponentId| meant.is_none_or(|meant| meant.contains(id));
    let reported = residency::list(conn).await?;
    let rows = reported.into_iter().filter(|row| row.tier == "ram" && is_meant(&row.component_id)).map(|row| row.host);
    let live = view.held.iter().filter(|held| held.device.is_none() && is_meant(&held.component));
    Ok(live.map(|held| held.host.clone()).chain(rows).collect())
}

fn must_not_be_leased(view: &View, meant: &[ComponentId], hosts: &[String], label: &str) -> Result<(), ApiError> {
    let leased = view.held.iter().find(|held| {
        held.leases > 0 && held.device.is_none() && meant.contains(&held.component) && hosts.contains(&held.host)
    });
    let Some(held) = leased else { return Ok(()) };
    Err(ApiError::conflict(format!("{label} is in use in the RAM of `{}` ({} leases)", held.host, held.leases))
        .hint("try again when the work that uses it has ended"))
}

/// A job for one host; a parent for several. With none the parent ends at once: there is nothing to free.
fn spread(spec: JobSpec, target: &Target, mut hosts: Vec<String>) -> Decision {
    let needs = Needs::default();
    if let (Target::Host(_), 0 | 1) = (target, hosts.len()) {
        return Decision { spec, target: target.clone(), spread: Spread::One, needs, left_out: Vec::new() };
    }
    if hosts.len() == 1
        && let Some(host) = hosts.pop()
    {
        return Decision { spec, target: Target::Host(host), spread: Spread::One, needs, left_out: Vec::new() };
    }
    let places = hosts.into_iter().map(Target::Host).collect();
    Decision { spec, target: Target::All, spread: Spread::Places(places), needs, left_out: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{places::tests::view, subject::tests::subject},
        *,
    };

    #[test]
    fn a_model_larger_than_every_budget_is_refused() {
        let mut farm = view(&[("a", 1), ("b", 1)]);
        assert!(decide_add(&farm, &subject(), None, Keep::default(), &Target::Any, &[]).is_ok());
        for host in &mut farm.hosts {
            host.row.ram_budget_bytes = 99;
        }
        let error = decide_add(&farm, &subject(), None, Keep::default(), &Target::Any, &[]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InsufficientCapacity);
    }

    #[test]
    fn devices_are_not_hosts() {
        let farm = view(&[("a", 1)]);
        let error =
            decide_add(&farm, &subject(), None, Keep::default(), &Target::Device("a/cpu:0".into()), &[]).unwrap_err();
        assert_eq!(error.body().hint.as_deref(), Some("write `host:a`"));
    }

    #[test]
    fn clearing_goes_to_each_host_that_holds_something() {
        let decide = |target: Target, hosts: &[&str]| {
            let spec = JobSpec::CacheRemove(CacheRemoveArgs::default());
            let decision = spread(spec, &target, hosts.iter().map(|host| (*host).to_owned()).collect());
            (decision.target, decision.spread)
        };
        assert_eq!(decide(Target::Any, &["a"]), (Target::Host("a".into()), Spread::One));
        assert_eq!(decide(Target::Host("a".into()), &[]), (Target::Host("a".into()), Spread::One));
        assert_eq!(decide(Target::All, &[]), (Target::All, Spread::Places(Vec::new())));
        assert!(matches!(decide(Target::Any, &["a", "b"]), (Target::All, Spread::Places(places)) if places.len() == 2));
    }
}
