//! Stored pipelines → what the wire shows, with models by name.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use shared::{
    db::{
        Session,
        jobs::{self, JobRow},
        models,
        pipelines::{self, EventRow, PipelineDeviceRow, PipelineRow},
    },
    error::{ErrorBody, ErrorCode},
    ids::{JobId, ModelId, PipelineId},
    job::JobState,
    pipeline::{Declared, standing},
    wire::{PipelineDeclaration, PipelineDeviceView, PipelineEvent, PipelineJob, PipelineView},
};

use super::{changes, target_of};
use crate::problem::ApiError;

/// Names of models; one that left the catalogue goes by its id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(HashMap<ModelId, String>);

impl Names {
    pub(crate) fn of(names: Vec<(ModelId, String)>) -> Self {
        Self(names.into_iter().collect())
    }

    /// Names of all models of these declarations.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn read<'d>(
        conn: &mut Session,
        declared: impl IntoIterator<Item = &'d Declared>,
    ) -> Result<Self, ApiError> {
        let models = declared.into_iter().flat_map(|declared| declared.assembly.models());
        let ids: HashSet<ModelId> = models.map(|(_, model, _)| *model).collect();
        Ok(Self::of(models::names_of(conn, &ids.into_iter().collect::<Vec<_>>()).await?))
    }

    fn name(&self, id: ModelId) -> String {
        self.0.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// True when a request means this model by `wanted`.
    pub(crate) fn means(&self, wanted: &str, there: &str) -> bool {
        let by_id = wanted.parse().ok().and_then(|id: ModelId| self.0.get(&id));
        wanted == there || by_id.is_some_and(|name| name == there)
    }

    /// A declaration with names, without what belongs to the pipeline alone.
    pub(crate) fn declaration(&self, declared: &Declared) -> PipelineDeclaration {
        let assembly = declared.assembly.clone();
        let Ok(assembly) = assembly.try_with_models(|id| Ok::<_, std::convert::Infallible>(self.name(id)));
        PipelineDeclaration {
            description: None,
            model: assembly.model,
            vae: assembly.vae,
            vae_settings: assembly.vae_settings,
            text_encoders: assembly.text_encoders,
            loras: assembly.loras,
            target: shared::job::Target::Any,
            labels: Vec::new(),
            keep_alive: declared.keep_alive,
            protect: declared.protect,
            apply: None,
        }
    }
}

/// What a pipeline declares, as it would be declared again.
///
/// # Errors
/// A stored row of another build.
pub(crate) fn declaration(
    row: &PipelineRow,
    declared: &Declared,
    names: &Names,
) -> Result<PipelineDeclaration, ApiError> {
    Ok(PipelineDeclaration {
        description: row.description.clone(),
        target: target_of(row)?,
        labels: row.labels.clone(),
        ..names.declaration(declared)
    })
}

/// Pipelines, each with the devices that it is, was or is to be on.
///
/// # Errors
/// Database errors.
pub(crate) async fn views(conn: &mut Session, rows: &[PipelineRow]) -> Result<Vec<PipelineView>, ApiError> {
    let declared = rows.iter().map(PipelineRow::declared).collect::<Result<Vec<_>, _>>()?;
    let names = Names::read(&mut *conn, &declared).await?;
    let ids: Vec<PipelineId> = rows.iter().map(|row| row.id).collect();
    let devices = pipelines::of_each(&mut *conn, &ids).await?;
    let newest: Vec<JobId> = rows.iter().filter_map(|row| row.job_id).collect();
    let jobs = if newest.is_empty() { Vec::new() } else { jobs::find_each(conn, &newest).await? };
    let one = |(row, declared): (&PipelineRow, &Declared)| {
        let on = devices.iter().filter(|on| on.pipeline_id == row.id);
        let job = jobs.iter().find(|job| row.job_id == Some(job.id));
        Ok::<_, ApiError>(PipelineView {
            id: row.id,
            name: row.name.clone(),
            generation: row.generation,
            declared: declaration(row, declared, &names)?,
            devices: on.map(on_device).collect::<Result<_, _>>()?,
            job: job.map(unless_succeeded).transpose()?.flatten(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    };
    rows.iter().zip(&declared).map(one).collect()
}

/// One of them.
///
/// # Errors
/// As [`views`].
pub(crate) async fn view(conn: &mut Session, row: &PipelineRow) -> Result<PipelineView, ApiError> {
    let mut one = views(conn, std::slice::from_ref(row)).await?;
    one.pop().ok_or_else(|| ApiError::new(ErrorCode::Internal, "a pipeline that was read is not shown"))
}

fn unless_succeeded(job: &JobRow) -> Result<Option<PipelineJob>, ApiError> {
    let state: JobState = job.state.parse().map_err(ApiError::defect)?;
    let error = job.error.as_ref().and_then(error_body);
    Ok((state != JobState::Succeeded).then_some(PipelineJob { id: job.id, state, error }))
}

fn on_device(row: &PipelineDeviceRow) -> Result<PipelineDeviceView, ApiError> {
    let facts = row.facts()?;
    let active = facts.job.is_some_and(|job| job.state.is_some_and(|state| !state.is_terminal()));
    let ended = row.job_id.filter(|_| !active);
    Ok(PipelineDeviceView {
        device: row.device.clone(),
        state: standing(&facts),
        wanted_generation: row.wanted_generation,
        applied_generation: row.applied_generation,
        applied_at: row.applied_at,
        facts: row.facts.clone(),
        job: row.job_id.filter(|_| active),
        last_job: ended.or(row.last_job_id),
        failures: u32::try_from(row.failures).unwrap_or(0),
        retry_at: row.retry_at,
        error: row.error().and_then(error_body),
    })
}

fn error_body(stored: &Value) -> Option<ErrorBody> {
    serde_json::from_value(stored.clone()).ok()
}

/// An entry of the history.
pub(crate) fn event(
    row: EventRow,
    before: Option<&Declared>,
    after: Option<&Declared>,
    names: &Names,
) -> PipelineEvent {
    PipelineEvent {
        seq: row.seq,
        at: row.at,
        event: row.event,
        generation: row.generation,
        who: row.who,
        device: row.device,
        job: row.job_id,
        changes: changes(before, after, names),
        seconds: row.seconds,
        bytes: row.bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        error: row.error.as_ref().and_then(error_body),
    }
}
