//! Planning work of the engine: which components of which models it takes, where it may run, and what it works on.

use shared::{
    db::{
        Session,
        blobs::{artifacts, uploads},
        farm,
    },
    job::{
        JobSpec, JobState, Lane, Target,
        engine::{EngineArgs, Input, draw_seed},
        enqueue::Needs,
    },
};

use super::{
    Decision, Spread, get_job,
    load::must_fit_somewhere,
    parts,
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
    if let EngineArgs::BlendLoras(blend) = args
        && let Some(root) = &blend.output.root
    {
        root_must_be_there(conn, "/output/root", root, target).await?;
    }
    let replaced: Vec<String> = args.replaced_encoders().map(str::to_owned).collect();
    let subjects = parts::look_up(conn, args.models(), &replaced).await?;
    let named = args.clone().try_with_models(parts::ids(&subjects))?;
    let spec: JobSpec = named.with_seed(draw_seed()).into();
    let subject = parts::together(subjects)?;
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
        Input::File { root, .. } => root_must_be_there(conn, &format!("{pointer}/root"), root, target).await,
    }
}

/// A host that is meant has a root of this name.
async fn root_must_be_there(conn: &mut Session, pointer: &str, root: &str, target: &Target) -> Result<(), ApiError> {
    let host = match target {
        Target::Host(host) => Some(host.as_str()),
        Target::Device(device) => device.split_once('/').map(|(host, _)| host),
        Target::Any | Target::All => None,
    };
    let roots = farm::list_roots(conn).await?;
    let mut meant = roots.into_iter().filter(|row| host.is_none_or(|host| row.host == host)).map(|row| row.name);
    if meant.any(|name| name == *root) {
        return Ok(());
    }
    let problem = ApiError::field(pointer, format!("no host that is meant has a root `{root}`"));
    Err(problem.maybe_hint(near::hint(root, meant)))
}
