//! What is written about pipelines in the transaction that accepts a job for them: who is superseded, and what is wanted where.
//!
//! Locks are taken in one order: the pipeline, jobs that are superseded, rows of devices, the new job. Agents that end a job
//! lock it before the rows of devices, and the scheduler a row before a new job.

use shared::{
    db::{
        Session, jobs,
        jobs::{JobFilter, JobRow},
        pipelines::{self, PipelineDeviceRow, Want},
    },
    ids::{JobId, PipelineId},
    job::{JobSpec, JobState, NewJob, Target},
    pipeline::Declared,
};

use super::lock;
use crate::{
    plan::{Plan, Spread},
    problem::ApiError,
};

/// The pipeline that a job changes the standing of, and the declaration that has to be the present one.
fn about(spec: &JobSpec) -> Option<(PipelineId, Option<i64>)> {
    match spec {
        JobSpec::ApplyPipeline(args) if !args.dry_run => Some((args.pipeline, Some(args.generation))),
        JobSpec::RestorePipeline(args) => Some((args.pipeline, None)),
        _ => None,
    }
}

/// Before the job of a plan is enqueued: the declaration is still the present one, and earlier jobs for the same devices that
/// do something else are cancelled.
///
/// # Errors
/// 404 and 409 when the pipeline was removed or declared anew meanwhile.
pub(crate) async fn prepare(tx: &mut Session, plan: &Plan) -> Result<(), ApiError> {
    let Some((id, generation)) = about(&plan.job.spec) else { return Ok(()) };
    let row = lock(&mut *tx, &id.to_string()).await?;
    if generation.is_some_and(|generation| generation != row.generation) {
        return Err(declared_anew(&row.name));
    }
    let devices = devices_of(plan);
    let there = pipelines::of_pipeline(&mut *tx, id).await?;
    let meant: Vec<&PipelineDeviceRow> =
        there.iter().filter(|row| devices.iter().any(|device| *device == row.device)).collect();
    // one that the scheduler finds a place for: superseded by every newer declaration, and by a restoration of several
    let chosen = row.job_id.filter(|_| generation.is_some() || plan.spread != Spread::One);
    let mut earlier: Vec<JobId> = meant.iter().filter_map(|row| row.job_id).chain(chosen).collect();
    earlier.sort_unstable();
    earlier.dedup();
    jobs::lock_all(&mut *tx, &earlier).await?;
    for job in earlier {
        supersede(&mut *tx, job, plan).await?;
    }
    for row in meant {
        pipelines::lock_device(&mut *tx, id, &row.device).await?;
    }
    Ok(())
}

/// The answer to whoever works on an older declaration.
pub(crate) fn declared_anew(name: &str) -> ApiError {
    ApiError::conflict(format!("pipeline `{name}` was declared anew meanwhile")).hint("look at it and ask again")
}

/// Devices by name that the plan's jobs are for.
fn devices_of(plan: &Plan) -> Vec<&str> {
    let targets: Vec<&Target> = match &plan.spread {
        Spread::One => vec![&plan.job.target],
        Spread::Places(places) => places.iter().collect(),
        Spread::Each(each) => each.iter().map(|(target, _)| target).collect(),
    };
    targets.into_iter().filter_map(device).collect()
}

fn device(target: &Target) -> Option<&str> {
    match target {
        Target::Device(device) => Some(device),
        _ => None,
    }
}

/// Cancels a job that is active, unless it does the same and is joined.
async fn supersede(tx: &mut Session, job: JobId, plan: &Plan) -> Result<(), ApiError> {
    let Some(row) = jobs::find(&mut *tx, job).await? else { return Ok(()) };
    let state: JobState = row.state.parse().map_err(ApiError::defect)?;
    // children belong to their parents: nobody joins them, and they join nothing
    let joins = plan.spread == Spread::One && row.parent.is_none() && row.cancel_requested_at.is_none();
    if state.is_terminal() || (joins && does_the_same(&row, plan)) {
        return Ok(());
    }
    jobs::cancel(tx, job).await?;
    Ok(())
}

/// The job's single-flight key is that of the plan's.
fn does_the_same(row: &JobRow, plan: &Plan) -> bool {
    let target = plan.job.target.to_string();
    let then =
        JobSpec::decode(&row.kind, JobSpec::ARGS_VERSION, &row.args).ok().and_then(|spec| spec.unique_key(&target));
    then.is_some() && then == plan.job.spec.unique_key(&target)
}

/// After the job (or the parent of several) was enqueued: what is wanted where, and which job does it.
///
/// # Errors
/// Database errors.
pub(crate) async fn record(tx: &mut Session, job: &NewJob, spread: bool, id: JobId) -> Result<(), ApiError> {
    let Some((pipeline, _)) = about(&job.spec) else { return Ok(()) };
    if !spread {
        return match &job.target {
            Target::Device(device) => note(tx, job, pipeline, device, id).await,
            _ => Ok(pipelines::set_job(tx, pipeline, id).await?),
        };
    }
    let filter = JobFilter { parent: Some(id), ..JobFilter::default() };
    for child in jobs::list(&mut *tx, &filter, i64::from(i32::MAX)).await? {
        let ended = child.state.parse::<JobState>().map_err(ApiError::defect)?.is_terminal();
        if let Some(device) = child.pin_device.as_ref().filter(|_| !ended) {
            note(tx, job, pipeline, device, child.id).await?;
        }
    }
    Ok(())
}

async fn note(tx: &mut Session, job: &NewJob, pipeline: PipelineId, device: &str, id: JobId) -> Result<(), ApiError> {
    if let JobSpec::ApplyPipeline(args) = &job.spec {
        let assembly = args.assembly.clone();
        let declared = Declared { assembly, keep_alive: args.keep_alive, protect: args.protect };
        let (declared, needs) = (&declared, &job.needs);
        let want = Want { pipeline, device, generation: args.generation, declared, needs, job: id };
        return Ok(pipelines::want(tx, want).await?);
    }
    Ok(pipelines::unwant(tx, pipeline, device, id).await?)
}
