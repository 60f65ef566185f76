//! Retrying: an ended job's order once more, planned against the farm as it is now.

use std::convert::Infallible;

use shared::{
    db::{
        Session,
        jobs::{self, JobFilter, JobRow},
    },
    ids::{JobId, ModelId},
    job::{JobKind, JobSpec, JobState, Keep, Target, engine::EngineArgs},
    wire::MetadataWriteRequest,
};

use super::{
    Cached, Order, Wanted,
    pipeline::{Manner, Where},
};
use crate::problem::ApiError;

/// The order of an ended job.
///
/// # Errors
/// 404 for a job that is not there; 409 unless it ended without success; database errors.
pub(super) async fn order(conn: &mut Session, id: JobId) -> Result<Order, ApiError> {
    let row = get_job(conn, id).await?;
    let state: JobState = row.state.parse().map_err(ApiError::defect)?;
    match state {
        JobState::Succeeded => {
            return Err(ApiError::conflict(format!("job {id} has succeeded; there is nothing to retry")));
        }
        ended if ended.is_terminal() => {}
        active => {
            return Err(ApiError::conflict(format!("job {id} is {active}; only an ended job can be retried"))
                .hint("wait for it, or cancel it first"));
        }
    }
    let spec = JobSpec::decode(&row.kind, row.args_version, &row.args).map_err(ApiError::defect)?;
    let place = place(conn, &row).await?;
    Ok(Order {
        wanted: wanted(spec, target(&row), place),
        priority: row.priority,
        labels: row.need_labels,
        max_attempts: Some(row.max_attempts),
        retry_of: Some(id),
        at: "",
    })
}

/// A job by id.
///
/// # Errors
/// 404, database errors.
pub(crate) async fn get_job(conn: &mut Session, id: JobId) -> Result<JobRow, ApiError> {
    jobs::find(conn, id).await?.ok_or_else(|| ApiError::not_found(format!("there is no job `{id}`")))
}

fn target(row: &JobRow) -> Target {
    match (&row.pin_device, &row.pin_host) {
        (Some(device), _) => Target::Device(device.clone()),
        (None, Some(host)) => Target::Host(host.clone()),
        (None, None) if row.lane == "fanout" => Target::All,
        (None, None) => Target::Any,
    }
}

/// Where a pipeline's job goes once more: one for several devices to those where it has not succeeded, wherever the pipeline is by now.
async fn place(conn: &mut Session, row: &JobRow) -> Result<Where, ApiError> {
    let of_pipelines = [JobKind::ApplyPipeline, JobKind::RestorePipeline].map(JobKind::as_str);
    if row.lane != "fanout" || !of_pipelines.contains(&row.kind.as_str()) {
        return Ok(Where::At(target(row)));
    }
    let filter = JobFilter { parent: Some(row.id), ..JobFilter::default() };
    let children = jobs::list(conn, &filter, i64::from(i32::MAX)).await?;
    let missed = children.into_iter().rev().filter(|child| child.state != JobState::Succeeded.as_str());
    let devices: Vec<String> = missed.filter_map(|child| child.pin_device).collect();
    if devices.is_empty() {
        let detail = format!("of the devices of job {} nothing is known any more", row.id);
        return Err(ApiError::conflict(detail).hint("apply or restore the pipeline anew"));
    }
    Ok(Where::On(devices))
}

fn wanted(spec: JobSpec, target: Target, place: Where) -> Wanted {
    match spec {
        JobSpec::ApplyPipeline(args) => {
            let manner = Manner { place, dry_run: args.dry_run, verify: args.verify };
            Wanted::Apply { pipeline: args.pipeline.to_string(), generation: Some(args.generation), manner }
        }
        JobSpec::RestorePipeline(args) => {
            Wanted::Restore { pipeline: args.pipeline.to_string(), place, verify: args.verify }
        }
        JobSpec::Scan(args) => match args.model {
            Some(model) => Wanted::Reidentify { model: model.to_string(), target },
            None => Wanted::Scan { root: args.root, target },
        },
        JobSpec::Load(args) => {
            let keep = Keep { keep_alive: args.keep_alive, protect: args.protect };
            Wanted::Load { model: args.model.to_string(), components: args.components, target, keep }
        }
        JobSpec::Unload(args) => Wanted::Unload {
            model: args.model.to_string(),
            components: args.components,
            from_ram: args.from_ram,
            force: args.force,
            wait_for_jobs: args.wait_for_jobs,
            target: Some(target),
        },
        JobSpec::CacheAdd(args) => {
            let keep = Keep { keep_alive: args.keep_alive, protect: args.protect };
            Wanted::CacheAdd { model: args.model.to_string(), components: args.components, target, keep }
        }
        JobSpec::Hash(args) => {
            Wanted::Hash { model: args.model.map(|model| model.to_string()), root: args.root, target }
        }
        JobSpec::Validate(args) => Wanted::Validate { model: args.model.to_string(), level: args.level, target },
        JobSpec::MetadataWrite(args) => Wanted::MetadataWrite {
            model: args.model.to_string(),
            wanted: MetadataWriteRequest {
                form: args.form,
                to: args.to,
                overwrite: args.overwrite,
                include: args.include,
                ..MetadataWriteRequest::default()
            },
            version: args.version,
            target,
        },
        JobSpec::Convert(args) => {
            let Ok(args) = args.try_with_models(|id| Ok::<_, Infallible>(id.to_string()));
            Wanted::Convert { args: Box::new(args), target }
        }
        JobSpec::CacheRemove(args) => {
            let what = match (args.model, args.component) {
                (Some(model), _) => Cached::Model(model.to_string()),
                (None, Some(component)) => Cached::Component(component),
                (None, None) => Cached::All,
            };
            Wanted::CacheRemove { what, cancel_loads: args.cancel_loads, target }
        }
        JobSpec::VaeDecode(args) => again(EngineArgs::VaeDecode(args), target),
        JobSpec::VaeEncode(args) => again(EngineArgs::VaeEncode(args), target),
        JobSpec::EncodeText(args) => again(EngineArgs::EncodeText(args), target),
        JobSpec::UnetStep(args) => again(EngineArgs::UnetStep(args), target),
        JobSpec::Tokenize(args) => again(EngineArgs::Tokenize(args), target),
        JobSpec::Generate(args) => again(EngineArgs::Generate(args), target),
        JobSpec::Benchmark(args) => {
            let Ok(args) = args.try_with_models(named);
            Wanted::Benchmark { args, target }
        }
        JobSpec::LoraCheck(args) => again(EngineArgs::LoraCheck(args), target),
        JobSpec::BlendLoras(args) => again(EngineArgs::BlendLoras(args), target),
        JobSpec::Optimize(args) => {
            let target = args.device.clone().map_or(target, Target::Device);
            Wanted::Optimize { args, target }
        }
        JobSpec::CacheKeep(args) => {
            let what = match (args.model, args.component) {
                (Some(model), _) => Cached::Model(model.to_string()),
                (None, Some(component)) => Cached::Component(component),
                (None, None) => Cached::All,
            };
            let target = args.device.map_or(target, Target::Device);
            Wanted::CacheKeep { what, target, protect: args.protect, keep_alive: args.keep_alive }
        }
    }
}

/// The seed is stored with the job, so the same comes out.
fn again(args: EngineArgs, target: Target) -> Wanted {
    let Ok(args) = args.try_with_models(named);
    Wanted::Run { args, target }
}

/// A model as a request names it.
fn named(id: ModelId) -> Result<String, Infallible> {
    Ok(id.to_string())
}
