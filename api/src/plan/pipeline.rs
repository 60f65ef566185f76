//! Planning what is done with pipelines: where each is applied or restored, and with what.

use std::collections::HashSet;

use shared::{
    db::{
        Session,
        pipelines::{self, PipelineDeviceRow, PipelineRow},
    },
    job::{ApplyPipelineArgs, JobSpec, RestorePipelineArgs, Target, engine::Assembly, enqueue::Needs},
    pipeline::Declared,
};

use super::{Decision, LeftOut, Spread, Subject, load, parts, places::get_device};
use crate::{merge::View, pipelines as stored, problem::ApiError};

/// Where a pipeline is applied or restored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Where {
    /// As a request says it. `any`: where it is applied already; an application else at the pipeline's own target.
    At(Target),
    /// On these devices: those that an earlier job of several devices was for.
    On(Vec<String>),
}

impl Default for Where {
    fn default() -> Self {
        Self::At(Target::Any)
    }
}

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(Target::Any) => f.write_str("anywhere"),
            Self::At(target) => write!(f, "at `{target}`"),
            Self::On(devices) => write!(f, "on {}", devices.join(", ")),
        }
    }
}

/// How a pipeline is applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// Where.
    pub(crate) place: Where,
    /// Only say what would be done.
    pub(crate) dry_run: bool,
    /// Check digests before it is done.
    pub(crate) verify: bool,
}

/// An assembly with its models looked up, and what of them takes part.
///
/// # Errors
/// 404, 409 and 415 for models that are not there or cannot take part; 400 for a LoRA that is named twice.
pub(crate) async fn look_up(conn: &mut Session, assembly: &Assembly<String>) -> Result<(Assembly, Subject), ApiError> {
    let replaced: Vec<String> = assembly.text_encoders.keys().cloned().collect();
    let subjects = parts::look_up(conn, assembly.models(), &replaced).await?;
    let named = assembly.clone().try_with_models(parts::ids(&subjects))?;
    let subject = parts::together(subjects)?;
    subject.map(|subject| (named, subject)).ok_or_else(|| ApiError::field("/model", "name a model"))
}

/// Decides about the application of a pipeline as it is declared now; of this generation only, where one is given.
///
/// # Errors
/// 404, 409, 415 and 507, as for a load of all its models.
pub(super) async fn decide_apply(
    conn: &mut Session,
    view: &View,
    (pipeline, generation): (&str, Option<i64>),
    manner: &Manner,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let row = stored::get(conn, pipeline).await?;
    if generation.is_some_and(|generation| generation != row.generation) {
        return Err(stored::declared_anew(&row.name));
    }
    let declared = row.declared()?;
    let (_, subject) = look_up(conn, &stored::by_id(&declared)).await?;
    let there = pipelines::of_pipeline(conn, row.id).await?;
    apply(view, (&row, &declared), &subject, &there, manner, labels)
}

/// The job that applies a declaration.
///
/// # Errors
/// 404 for a place that is not there; 507 when no candidate could ever hold it.
pub(crate) fn apply(
    view: &View,
    (row, declared): (&PipelineRow, &Declared),
    subject: &Subject,
    there: &[PipelineDeviceRow],
    manner: &Manner,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let spec = JobSpec::ApplyPipeline(ApplyPipelineArgs {
        pipeline: row.id,
        name: row.name.clone(),
        generation: row.generation,
        assembly: declared.assembly.clone(),
        keep_alive: declared.keep_alive,
        protect: declared.protect,
        dry_run: manner.dry_run,
        verify: manner.verify,
    });
    let needs = if manner.dry_run { Needs::default() } else { subject.needs() };
    let decision = |target, spread, left_out| Decision { spec, target, spread, needs, left_out };
    let targets = targets(row, there, &manner.place)?;
    if let [target] = targets.as_slice() {
        let (spread, left_out) = load::placed(view, subject, target, labels)?;
        return Ok(decision(target.clone(), spread, left_out));
    }
    for target in &targets {
        load::placed(view, subject, target, labels)?;
    }
    Ok(decision(Target::All, Spread::Places(targets), Vec::new()))
}

/// Where an application goes.
fn targets(row: &PipelineRow, there: &[PipelineDeviceRow], asked: &Where) -> Result<Vec<Target>, ApiError> {
    match asked {
        Where::At(Target::Any) => {}
        Where::At(target) => return Ok(vec![target.clone()]),
        Where::On(devices) => return Ok(devices.iter().cloned().map(Target::Device).collect()),
    }
    let wanted = there.iter().filter(|row| row.desired == "applied");
    let devices: Vec<Target> = wanted.map(|row| Target::Device(row.device.clone())).collect();
    if devices.is_empty() { Ok(vec![stored::target_of(row)?]) } else { Ok(devices) }
}

/// Decides about the end of a pipeline where it is applied. Its models may have left the catalogue.
///
/// # Errors
/// 404 for a place that is not there; 409 when it is not applied there.
pub(super) async fn decide_restore(
    conn: &mut Session,
    view: &View,
    pipeline: &str,
    place: &Where,
    verify: bool,
) -> Result<Decision, ApiError> {
    let row = stored::get(conn, pipeline).await?;
    if let Where::At(Target::Device(device)) = place {
        get_device(view, device)?;
    }
    let there = pipelines::of_pipeline(conn, row.id).await?;
    let each = restorations(&row, &there, place, verify)?;
    let first = each.first().cloned();
    let (device, spec) = first.ok_or_else(|| not_applied(&row, &there, place))?;
    let several = match place {
        Where::At(host @ Target::Host(_)) => host.clone(),
        _ => Target::All,
    };
    let (target, spread) = if each.len() == 1 { (device, Spread::One) } else { (several, Spread::Each(each)) };
    Ok(Decision { spec, target, spread, needs: Needs::default(), left_out: Vec::<LeftOut>::new() })
}

/// A restoration of what is applied on each device that is meant.
///
/// # Errors
/// A stored row of another build.
pub(crate) fn restorations(
    row: &PipelineRow,
    there: &[PipelineDeviceRow],
    place: &Where,
    verify: bool,
) -> Result<Vec<(Target, JobSpec)>, ApiError> {
    let meant = |on: &&PipelineDeviceRow| match place {
        Where::At(Target::Any | Target::All) => true,
        Where::At(Target::Device(device)) => *device == on.device,
        Where::At(Target::Host(host)) => on.device.split_once('/').is_some_and(|(of, _)| of == host),
        Where::On(devices) => devices.contains(&on.device),
    };
    let is_there = |on: &&PipelineDeviceRow| on.desired == "applied" || on.applied_generation.is_some();
    let mut each = Vec::new();
    for on in there.iter().filter(meant).filter(is_there) {
        let assembly = on.applied()?.map_or_else(|| on.wanted(), Ok)?.assembly;
        let generation = on.applied_generation.unwrap_or(on.wanted_generation);
        let args = RestorePipelineArgs { pipeline: row.id, name: row.name.clone(), generation, assembly, verify };
        each.push((Target::Device(on.device.clone()), JobSpec::RestorePipeline(args)));
    }
    Ok(each)
}

fn not_applied(row: &PipelineRow, there: &[PipelineDeviceRow], place: &Where) -> ApiError {
    let devices: HashSet<&str> =
        there.iter().filter(|row| row.desired == "applied").map(|row| row.device.as_str()).collect();
    let detail = format!("pipeline `{}` is not applied {place}", row.name);
    let mut devices: Vec<&str> = devices.into_iter().collect();
    devices.sort_unstable();
    let where_it_is = (!devices.is_empty()).then(|| format!("it is applied on {}", devices.join(", ")));
    ApiError::conflict(detail).maybe_hint(where_it_is)
}
