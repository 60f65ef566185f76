//! Pipelines that are not where they are wanted: applied again after a runner or host died, or where an older declaration is.
//! What is to be done follows from `shared::pipeline::step`; each row is decided and written in a transaction of its own.

use serde_json::{Value, json};
use shared::{
    db::{
        DbError, Session, leader,
        pipelines::{self, Event, PipelineDeviceRow},
    },
    error::{Classify, ErrorCode, chain},
    ids::JobId,
    job::{ApplyPipelineArgs, JobSpec, NewJob, RestorePipelineArgs, Target, enqueue::enqueue},
    pipeline::{Step, pause, step},
};

use super::Control;
use crate::{leader::Lead, metrics::ROLE};

/// Looks at every pipeline on every device.
///
/// # Errors
/// Database errors.
pub(crate) async fn reconcile(control: &Control) -> Result<(), DbError> {
    let Some(lead) = control.leadership.current() else { return Ok(()) };
    for row in pipelines::of_all(&control.pool).await? {
        match look(control, lead, &row).await {
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::Unavailable => return Err(error),
            // one that this build cannot read keeps nobody else waiting
            Err(error) => {
                tracing::error!(pipeline = row.name, device = row.device, error = %chain(&error), "it is left as it is");
            }
        }
    }
    let mut tx = control.pool.begin().await?;
    if leader::holds(&mut *tx, ROLE, lead.term).await? {
        for (pipeline, job) in pipelines::add_failed_choices(&mut *tx).await? {
            tracing::warn!(pipeline, job.id = %job, "a pipeline was not applied anywhere");
        }
        tx.commit().await?;
    }
    Ok(())
}

async fn look(control: &Control, lead: Lead, row: &PipelineDeviceRow) -> Result<(), DbError> {
    if step(&row.facts()?) == Step::Wait {
        return Ok(());
    }
    let mut tx = control.pool.begin().await?;
    if !leader::holds(&mut *tx, ROLE, lead.term).await? {
        return Ok(());
    }
    // decided again on the locked row: a user or an agent may have been faster
    if let Some(row) = pipelines::lock_device(&mut tx, row.pipeline_id, &row.device).await? {
        let step = step(&row.facts()?);
        act(&mut tx, &row, step).await?;
        tx.commit().await?;
        count(control, step);
    }
    Ok(())
}

fn count(control: &Control, step: Step) {
    let what = match step {
        Step::Apply => "applied",
        Step::Restore => "restored",
        Step::Note { .. } => "failed",
        Step::Wait | Step::Settle | Step::Forget => return,
    };
    control.metrics.pipelines.with_label_values(&[what]).inc();
}

async fn act(tx: &mut Session, row: &PipelineDeviceRow, step: Step) -> Result<(), DbError> {
    match step {
        Step::Wait => Ok(()),
        Step::Note { again } => note(tx, row, again).await,
        Step::Settle => match row.job_id {
            Some(job) => pipelines::settle(tx, (row.pipeline_id, &row.device), job).await.map(|_| ()),
            None => Ok(()),
        },
        Step::Forget => pipelines::clear(tx, row.pipeline_id, &row.device).await.map(|_| ()),
        Step::Apply => apply(tx, row).await,
        Step::Restore => restore(tx, row).await,
    }
}

async fn note(tx: &mut Session, row: &PipelineDeviceRow, again: bool) -> Result<(), DbError> {
    let Some(job) = row.job_id else { return Ok(()) };
    let unknown =
        json!({ "code": "internal", "message": format!("job {job} ended without an error, and without its effect") });
    let error = row.error().unwrap_or(&unknown);
    let failures = u32::try_from(row.failures).unwrap_or(u32::MAX).saturating_add(1);
    let pause = again.then(|| pause(failures));
    if pipelines::note(tx, (row.pipeline_id, &row.device), job, error, pause).await? {
        tracing::warn!(pipeline = row.name, device = row.device, job.id = %job, failures, again, "a pipeline's job failed");
        append(tx, row, "failed", Some(job), Some(error)).await?;
    }
    Ok(())
}

async fn apply(tx: &mut Session, row: &PipelineDeviceRow) -> Result<(), DbError> {
    let wanted = row.wanted()?;
    let spec = JobSpec::ApplyPipeline(ApplyPipelineArgs {
        pipeline: row.pipeline_id,
        name: row.name.clone(),
        generation: row.wanted_generation,
        assembly: wanted.assembly,
        keep_alive: wanted.keep_alive,
        protect: wanted.protect,
        dry_run: false,
        verify: false,
    });
    let mut job = NewJob::new(spec, Target::Device(row.device.clone()));
    job.needs = row.needs()?;
    let id = begin(tx, row, job).await?;
    let was_there = row.applied_generation.is_some_and(|there| there >= row.wanted_generation);
    // told once, not again with each attempt
    if was_there && row.failures == 0 {
        append(tx, row, "lost", None, None).await?;
    }
    tracing::info!(pipeline = row.name, device = row.device, job.id = %id, "the pipeline is applied again");
    Ok(())
}

async fn restore(tx: &mut Session, row: &PipelineDeviceRow) -> Result<(), DbError> {
    let Some(applied) = row.applied()? else { return Ok(()) };
    let spec = JobSpec::RestorePipeline(RestorePipelineArgs {
        pipeline: row.pipeline_id,
        name: row.name.clone(),
        generation: row.applied_generation.unwrap_or_default(),
        assembly: applied.assembly,
        verify: false,
    });
    let id = begin(tx, row, NewJob::new(spec, Target::Device(row.device.clone()))).await?;
    tracing::info!(pipeline = row.name, device = row.device, job.id = %id, "the pipeline is restored");
    Ok(())
}

/// Enqueues the job, or joins the one that does the same, as the newest job of the row.
async fn begin(tx: &mut Session, row: &PipelineDeviceRow, job: NewJob) -> Result<JobId, DbError> {
    let id = enqueue(tx, job).await?.id;
    pipelines::take(tx, row.pipeline_id, &row.device, id).await?;
    Ok(id)
}

async fn append(
    tx: &mut Session,
    row: &PipelineDeviceRow,
    event: &str,
    job: Option<JobId>,
    error: Option<&Value>,
) -> Result<(), DbError> {
    let event =
        Event { event, generation: row.wanted_generation, device: Some(&row.device), job, error, ..Event::default() };
    pipelines::add_event(tx, row.pipeline_id, event).await
}
