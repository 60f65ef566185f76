//! Planning a scan: of one host, or of every living host that has the root; or of one model's root to read that model again.

use shared::{
    db::{Session, farm},
    job::{JobSpec, ScanArgs, Target, enqueue::Needs},
};

use super::{Decision, Spread, Subject, places::hosts_of};
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
    let spec = JobSpec::Scan(ScanArgs { root: root.map(str::to_owned), model: None });
    let needs = Needs::default();
    if let Target::Host(_) = target {
        return Ok(Decision { spec, target: target.clone(), spread: Spread::One, needs, left_out: Vec::new() });
    }
    let has_root = |host: &str| roots.iter().any(|row| row.host == host && root.is_none_or(|root| root == row.name));
    let alive = view.hosts.iter().filter(|host| host.row.alive && has_root(&host.row.name));
    let mut places: Vec<Target> = alive.map(|host| Target::Host(host.row.name.clone())).collect();
    if places.len() == 1
        && *target == Target::Any
        && let Some(target) = places.pop()
    {
        return Ok(Decision { spec, target, spread: Spread::One, needs, left_out: Vec::new() });
    }
    if places.is_empty() {
        return Err(ApiError::conflict("no living host has a model root to scan")
            .hint("start a worker with `--root NAME=PATH`"));
    }
    Ok(Decision { spec, target: Target::All, spread: Spread::Places(places), needs, left_out: Vec::new() })
}

/// Decides about reading a model again: on the first living host that is meant and has its files. What one host reads counts
/// for all, as roots of one name hold the same library.
///
/// # Errors
/// 404 for a host that is not there, 400 for a device; 409 when no living host that is meant has the files.
pub(super) fn decide_again(view: &View, subject: &Subject, target: &Target) -> Result<Decision, ApiError> {
    let meant = hosts_of(view, target, "scan")?;
    let has_it = |host: &str| subject.hosts.iter().any(|name| name == host);
    let Some(host) = meant.into_iter().find(|host| host.row.alive && has_it(&host.row.name)) else {
        return Err(ApiError::conflict(format!("no living host that is meant has model `{}`", subject.model.name))
            .hint("scan again, or start the host that has it"));
    };
    let spec = JobSpec::Scan(ScanArgs { root: Some(subject.model.root.clone()), model: Some(subject.model.id) });
    let target = Target::Host(host.row.name.clone());
    Ok(Decision { spec, target, spread: Spread::One, needs: Needs::default(), left_out: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{places::tests::view, subject::tests::subject};

    #[test]
    fn a_model_is_read_again_on_one_host_that_has_it() {
        let view = view(&[("b", 1), ("c", 1)]);
        let subject = subject();
        let decision = decide_again(&view, &subject, &Target::Any).unwrap();
        assert_eq!(decision.target, Target::Host("b".into()));
        let JobSpec::Scan(args) = decision.spec else { panic!("not a scan") };
        assert_eq!((args.root.as_deref(), args.model), (Some("r"), Some(subject.model.id)));
        assert!(decide_again(&view, &subject, &Target::Host("c".into())).is_err());
    }
}
