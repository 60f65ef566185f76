//! Planning an unload: to the devices that hold the model, refusing what is in use or held nowhere.

use std::{collections::BTreeSet, time::Duration};

use shared::{
    db::{Session, jobs, models, residency},
    ids::{ComponentId, JobId},
    job::{JobKind, JobSpec, Target, UnloadArgs},
};

use super::{Decision, Spread, Subject, places::devices_of};
use crate::{merge::View, problem::ApiError};

/// A load that succeeded within this time may not show in the host's report yet.
const RECENTLY: Duration = Duration::from_secs(15);

/// What to do then.
const IN_USE: &str = "try again when the work that uses it has ended, cancel that work, or ask with `wait_for_jobs`";

/// An active job: id, kind, state, place.
type ActiveJob = (JobId, String, String, Option<String>);

/// How far an unload goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// The RAM copies as well.
    pub(super) from_ram: bool,
    /// Also what others need or what is protected.
    pub(super) force: bool,
    /// Behind the jobs that use it, instead of not at all.
    pub(super) wait_for_jobs: bool,
    /// It is about this component, whichever models have it.
    pub(super) component: Option<ComponentId>,
}

/// Looks up who holds the model, then decides.
///
/// # Errors
/// 404 for a place that is not there; 409 when it is in use or held nowhere; database errors.
pub(super) async fn decide(
    conn: &mut Session,
    view: &View,
    subject: &Subject,
    components: Option<Vec<String>>,
    Manner { from_ram, force, wait_for_jobs, component }: Manner,
    target: Option<&Target>,
) -> Result<Decision, ApiError> {
    let reported = residency::of_model(&mut *conn, subject.model.id).await?;
    let loads = jobs::loads_underway_or_recent(&mut *conn, subject.model.id, RECENTLY).await?;
    let rows = reported.into_iter().filter(|row| row.tier == "vram" && subject.means(row.component_id));
    let also: BTreeSet<String> = rows.map(|row| row.device).chain(loads).collect();
    let label = label(subject, component);
    let holders = holders(view, subject, &label, also, target)?;
    if !wait_for_jobs {
        must_not_be_leased(view, subject, &holders)?;
        let own = match component {
            Some(component) => vec![component],
            None => own_components(conn, subject).await?,
        };
        let active = jobs::active_that_need(&mut *conn, subject.model.id, &own).await?;
        must_not_be_run(subject, &active, &holders)?;
    }
    let spec = JobSpec::Unload(UnloadArgs { model: subject.model.id, components, from_ram, force, wait_for_jobs });
    let (target, spread) = spread(holders, target);
    Ok(Decision { spec, target, spread, needs: subject.needs(), left_out: Vec::new() })
}

/// What it is about, for people.
fn label(subject: &Subject, component: Option<ComponentId>) -> String {
    let name = &subject.model.name;
    component.map_or_else(|| format!("`{name}`"), |id| format!("the `{}` of `{name}`", subject.kind_of(id)))
}

/// The components that no other model has: what takes part in others' work without being shared with them, as a VAE or a LoRA
/// does. A shared one stays for the others anyway.
async fn own_components(conn: &mut Session, subject: &Subject) -> Result<Vec<ComponentId>, ApiError> {
    let ids: Vec<ComponentId> = subject.components.iter().map(|row| row.id).collect();
    let owners = models::owners_of(conn, &ids).await?;
    let is_shared = |id: &ComponentId| owners.iter().any(|owner| owner.id == *id && owner.model_id != subject.model.id);
    Ok(ids.into_iter().filter(|id| !is_shared(id)).collect())
}

/// Devices within the target that hold a component: by the live view, by the last report, or by a load just done.
fn holders(
    view: &View,
    subject: &Subject,
    label: &str,
    also: BTreeSet<String>,
    target: Option<&Target>,
) -> Result<Vec<String>, ApiError> {
    let within = devices_of(view, target.unwrap_or(&Target::All))?;
    let live = view.held.iter().filter(|held| subject.means(held.component)).filter_map(|held| held.device.clone());
    let holding: BTreeSet<String> = live.chain(also).collect();
    let holders: Vec<String> =
        within.iter().filter(|device| holding.contains(&device.id)).map(|device| device.id.clone()).collect();
    if !holders.is_empty() {
        return Ok(holders);
    }
    let place = match target {
        Some(Target::Device(id)) => format!("device `{id}`"),
        Some(Target::Host(host)) => format!("any device of host `{host}`"),
        _ => "any device".to_owned(),
    };
    let elsewhere: Vec<String> = holding.into_iter().map(|id| format!("`{id}`")).collect();
    let hint = if elsewhere.is_empty() {
        "nothing has to be done; a load that still waits can be cancelled".to_owned()
    } else {
        format!("it is resident on {}", elsewhere.join(", "))
    };
    Err(ApiError::conflict(format!("{label} is not resident on {place}")).hint(hint))
}

fn must_not_be_leased(view: &View, subject: &Subject, holders: &[String]) -> Result<(), ApiError> {
    let leased = view.held.iter().find(|held| {
        held.leases > 0
            && subject.means(held.component)
            && held.device.as_ref().is_some_and(|device| holders.contains(device))
    });
    let Some(held) = leased else { return Ok(()) };
    let detail = format!(
        "the `{}` of `{}` is in use on `{}` ({} {})",
        subject.kind_of(held.component),
        subject.model.name,
        held.device.as_deref().unwrap_or(&held.host),
        held.leases,
        if held.leases == 1 { "lease" } else { "leases" },
    );
    Err(ApiError::conflict(detail).hint(IN_USE))
}

/// A job that runs the model there may hold nothing yet, or nothing that the live view shows.
fn must_not_be_run(subject: &Subject, active: &[ActiveJob], holders: &[String]) -> Result<(), ApiError> {
    let runs = |kind: &str| {
        let kind: Option<JobKind> = kind.parse().ok();
        kind.is_some_and(|kind| kind.needs_weights() && !matches!(kind, JobKind::Load | JobKind::CacheAdd))
    };
    let using = active.iter().find(|(_, kind, state, place)| {
        state != "pending" && runs(kind) && place.as_ref().is_some_and(|place| holders.contains(place))
    });
    let Some((id, kind, _, place)) = using else { return Ok(()) };
    let (name, place) = (&subject.model.name, place.as_deref().unwrap_or_default());
    Err(ApiError::conflict(format!("`{name}` is in use on `{place}` by job {id} ({kind})")).hint(IN_USE))
}

/// One job where one device is meant; a parent where a target of many was asked for or several devices hold it.
fn spread(holders: Vec<String>, target: Option<&Target>) -> (Target, Spread) {
    let parent = match target {
        None | Some(Target::Any) => Target::All,
        Some(given) => given.clone(),
    };
    match holders.as_slice() {
        [only] if parent != Target::All || target.is_none_or(|target| *target == Target::Any) => {
            (Target::Device(only.clone()), Spread::One)
        }
        _ => (parent, Spread::Places(holders.into_iter().map(Target::Device).collect())),
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::{
        super::{places::tests::view, subject::tests::subject},
        *,
    };
    use crate::merge::Held;

    fn held(subject: &Subject, device: &str, leases: u32) -> Held {
        Held {
            host: device.split('/').next().unwrap().into(),
            device: Some(device.into()),
            component: subject.components[0].id,
            state: "ready".into(),
            bytes: 80,
            leases,
            protected: false,
            since: Utc::now(),
            last_used: None,
            hits: None,
            holders: Vec::new(),
            models: Vec::new(),
            expires_at: None,
            eviction: None,
            progress: None,
            failure: None,
        }
    }

    #[test]
    fn held_nowhere_is_a_conflict_that_says_where_it_is() {
        let subject = subject();
        let mut view = view(&[("a", 200), ("b", 200)]);
        let nowhere = holders(&view, &subject, "`m`", BTreeSet::new(), None).unwrap_err();
        assert!(nowhere.body().detail.contains("not resident on any device"));
        view.held.push(held(&subject, "b/cpu:0", 0));
        let elsewhere =
            holders(&view, &subject, "`m`", BTreeSet::new(), Some(&Target::Device("a/cpu:0".into()))).unwrap_err();
        assert!(elsewhere.body().hint.unwrap().contains("`b/cpu:0`"));
    }

    #[test]
    fn a_load_just_done_counts_as_resident() {
        let also = BTreeSet::from(["a/cpu:0".to_owned()]);
        let found = holders(&view(&[("a", 200)]), &subject(), "`m`", also, None).unwrap();
        assert_eq!(found, ["a/cpu:0"]);
    }

    #[test]
    fn a_leased_component_is_named() {
        let subject = subject();
        let mut view = view(&[("a", 200)]);
        view.held.push(held(&subject, "a/cpu:0", 2));
        let error = must_not_be_leased(&view, &subject, &["a/cpu:0".to_owned()]).unwrap_err();
        assert!(error.body().detail.contains("`unet`") && error.body().detail.contains("2 leases"));
    }

    #[test]
    fn a_job_that_runs_it_is_named_unless_it_has_not_begun_or_only_loads() {
        let (subject, holders) = (subject(), ["a/cpu:0".to_owned()]);
        let job = |kind: &str, state: &str, place: &str| {
            (JobId::generate(), kind.to_owned(), state.to_owned(), Some(place.to_owned()))
        };
        let others = [
            job("generate", "pending", "a/cpu:0"),
            job("generate", "running", "b/cpu:0"),
            job("load", "running", "a/cpu:0"),
            job("unload", "placed", "a/cpu:0"),
        ];
        must_not_be_run(&subject, &others, &holders).unwrap();
        let error = must_not_be_run(&subject, &[job("generate", "placed", "a/cpu:0")], &holders).unwrap_err();
        assert!(error.body().detail.contains("(generate)"), "{}", error.body().detail);
    }

    #[test]
    fn one_holder_is_one_job_unless_all_was_asked_for() {
        let one = || vec!["a/cpu:0".to_owned()];
        assert_eq!(spread(one(), None), (Target::Device("a/cpu:0".into()), Spread::One));
        assert_eq!(spread(one(), Some(&Target::Host("a".into()))).1, Spread::One);
        assert!(matches!(spread(one(), Some(&Target::All)), (Target::All, Spread::Places(_))));
        let two = vec!["a/cpu:0".to_owned(), "a/cuda:0".to_owned()];
        let (target, spread) = spread(two, Some(&Target::Host("a".into())));
        assert!(target == Target::Host("a".into()) && matches!(spread, Spread::Places(places) if places.len() == 2));
    }
}
