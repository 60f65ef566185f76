//! Planning work of the engine: which components of which models it takes, where it may run, and what it works on.

use std::collections::HashSet;

use shared::{
    db::{
        Session,
        blobs::{artifacts, uploads},
        farm,
    },
    error::ErrorCode,
    job::{
        JobSpec, JobState, Lane, Target,
        engine::{EngineArgs, Input, Role, draw_seed},
        enqueue::Needs,
    },
};

use super::{
    Decision, Spread, Subject, get_job,
    load::must_fit_somewhere,
    places::{devices_of, hosts_of},
};
use crate::{merge::View, near, problem::ApiError};

/// Decides about work of the engine.
///
/// # Errors
/// 400 for a target that cannot be; 404 for a model, input or place that is not there; 409 and 415 for a model that cannot do
/// it; 507 when no candidate could ever hold it; database errors.
pub(super) async fn decide(
    conn: &mut Session,
    view: &View,
    args: &EngineArgs<String>,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let kind = args.kind();
    if *target == Target::All {
        let detail = format!("a `{kind}` job runs in one place: `any`, a host or a device");
        return Err(ApiError::field("/target", detail));
    }
    if let Some((pointer, input)) = args.input() {
        must_be_there(conn, pointer, input, target).await?;
    }
    let mut subjects = Vec::new();
    for (_, model, role) in args.models() {
        subjects.push(taking_part(Subject::read(conn, model, None).await?, role)?);
    }
    let mut ids = subjects.iter().map(|subject| subject.model.id).collect::<Vec<_>>().into_iter();
    let missing = || ApiError::new(ErrorCode::Internal, "a model of the request was not looked up");
    let named = args.clone().try_with_models(|_| ids.next().ok_or_else(missing))?;
    let spec: JobSpec = named.with_seed(draw_seed()).into();
    let subject = together(subjects)?;
    if spec.lane() == Lane::Device {
        let devices = devices_of(view, target)?;
        if let Some(subject) = &subject {
            must_fit_somewhere(view, subject, &devices, labels)?;
        }
    } else {
        hosts_of(view, target, kind.as_str())?;
    }
    let needs = subject.map(|subject| subject.needs()).unwrap_or_default();
    let needs = if kind.needs_weights() { needs } else { Needs::default() };
    Ok(Decision { spec, target: target.clone(), spread: Spread::One, needs, left_out: Vec::new() })
}

/// The model with those of its components that the role takes.
///
/// # Errors
/// 409 while its files are not there; 415 when it has no component for a part of the role.
fn taking_part(mut subject: Subject, role: Role) -> Result<Subject, ApiError> {
    subject.must_be_loadable()?;
    // a model without VAE takes one of its family on the host that runs it, which the host knows
    let brings_vae = subject.components.iter().any(|row| Role::VaeDecoder.means(&row.kind));
    let role = if role == Role::Pipeline && !brings_vae { Role::WithoutVae } else { role };
    for (part, kinds) in role.groups() {
        if !subject.components.iter().any(|row| kinds.contains(&row.kind.as_str())) {
            let there = subject.components.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>().join(", ");
            let detail = format!("model `{}` has no {part}; it has {there}", subject.model.name);
            return Err(ApiError::new(ErrorCode::Unsupported, detail));
        }
    }
    subject.components.retain(|row| role.means(&row.kind));
    Ok(subject)
}

/// The models as one: all components, and the hosts that have them all.
///
/// # Errors
/// 409 when no host has them all.
fn together(subjects: Vec<Subject>) -> Result<Option<Subject>, ApiError> {
    let mut subjects = subjects.into_iter();
    let Some(mut all) = subjects.next() else { return Ok(None) };
    for other in subjects {
        let had_hosts = !all.hosts.is_empty() && !other.hosts.is_empty();
        all.hosts.retain(|host| other.hosts.contains(host));
        if had_hosts && all.hosts.is_empty() {
            let detail = format!("no host has both `{}` and `{}` on its disk", all.model.name, other.model.name);
            return Err(ApiError::conflict(detail));
        }
        let known: HashSet<_> = all.components.iter().map(|row| row.id).collect();
        all.components.extend(other.components.into_iter().filter(|row| !known.contains(&row.id)));
    }
    Ok(Some(all))
}

/// What the work is done on is there. A file is looked for by the job: the API reads no disks.
async fn must_be_there(conn: &mut Session, pointer: &str, input: &Input, target: &Target) -> Result<(), ApiError> {
    match input {
        Input::Upload { upload } => match uploads::find(conn, *upload).await? {
            Some(_) => Ok(()),
            None => Err(ApiError::not_found(format!("there is no upload `{upload}`"))
                .hint("it was removed, or it expired; send it again")),
        },
        Input::Artifact { artifact } => {
            let job = get_job(conn, artifact.job).await?;
            let ended = job.state.parse::<JobState>().map_err(ApiError::defect)?;
            if ended != JobState::Succeeded {
                let detail = format!("job {} is {ended}; only a job that succeeded has artifacts", artifact.job);
                return Err(ApiError::conflict(detail));
            }
            let found = artifacts::find(conn, artifact.job, &artifact.name).await?;
            found.filter(|row| !row.preview).map(|_| ()).ok_or_else(|| {
                let detail = format!("job {} has no artifact `{}`", artifact.job, artifact.name);
                ApiError::not_found(detail)
                    .hint("artifacts are removed after a while; the job's list shows what is there")
            })
        }
        Input::File { root, .. } => {
            let host = match target {
                Target::Host(host) => Some(host.as_str()),
                Target::Device(device) => device.split_once('/').map(|(host, _)| host),
                Target::Any | Target::All => None,
            };
            let roots = farm::list_roots(conn).await?;
            let mut meant =
                roots.into_iter().filter(|row| host.is_none_or(|host| row.host == host)).map(|row| row.name);
            if meant.any(|name| name == *root) {
                return Ok(());
            }
            let detail = format!("no host that is meant has a root `{root}`");
            let problem = ApiError::field(format!("{pointer}/root"), detail);
            Err(problem.maybe_hint(near::hint(root, meant)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::subject::tests::subject;

    #[test]
    fn only_what_takes_part_is_needed_and_what_lacks_is_named() {
        let decoding = taking_part(subject(), Role::VaeDecoder).unwrap();
        assert_eq!(decoding.components.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["vae"]);
        let error = taking_part(subject(), Role::Pipeline).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.body().detail.contains("has no text encoder; it has unet, vae"), "{}", error.body().detail);
    }

    #[test]
    fn models_that_work_together_lie_on_one_disk() {
        let mut other = subject();
        other.hosts = vec!["b".into(), "c".into()];
        let both = together(vec![subject(), other.clone()]).unwrap().unwrap();
        assert_eq!((both.hosts, both.components.len()), (vec!["b".to_owned()], 4));
        other.hosts = vec!["c".into()];
        assert_eq!(together(vec![subject(), other]).unwrap_err().code(), ErrorCode::Conflict);
    }
}
