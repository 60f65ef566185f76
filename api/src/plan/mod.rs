//! From what a client wants to what is enqueued: looks everything up, refuses what can never work, and says where it goes.
//! The decisions are pure functions over a [`View`] and a [`Subject`]; only the look-ups touch Postgres.

mod assembled;
mod benchmark;
mod cache;
mod convert;
mod engine;
mod hash;
mod load;
mod metadata_write;
mod optimize;
mod parts;
pub(crate) mod pipeline;
mod places;
mod retry;
mod scan;
mod subject;
mod unload;
mod validate;

use serde_json::{Map, Value};
use shared::{
    db::Session,
    error::ErrorCode,
    ids::{ComponentId, JobId},
    job::{
        BenchmarkArgs, ConvertArgs, JobKind, JobSpec, Keep, KeepAlive, NewJob, OptimizeArgs, Target, ValidateLevel,
        engine::EngineArgs, enqueue::Needs,
    },
    wire::MetadataWriteRequest,
};

pub(crate) use benchmark::get_benchmark;
pub(crate) use places::{get_device, get_host};
pub(crate) use retry::get_job;
pub(crate) use subject::{Subject, get_component, get_model};

use crate::{idempotency::Asked, merge::View, problem::ApiError, state::AppState};

/// What a client wants done.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// Disk → RAM → device.
    Load { model: String, components: Option<Vec<String>>, target: Target, keep: Keep },
    /// Free device memory; everywhere when no target is given.
    Unload {
        model: String,
        components: Option<Vec<String>>,
        from_ram: bool,
        force: bool,
        wait_for_jobs: bool,
        target: Option<Target>,
    },
    /// Free one component of one device, or of every one when none is given.
    UnloadComponent { component: ComponentId, device: Option<String> },
    /// Disk → RAM.
    CacheAdd { model: String, components: Option<Vec<String>>, target: Target, keep: Keep },
    /// Free RAM, where it is said also of what is being loaded.
    CacheRemove { what: Cached, cancel_loads: bool, target: Target },
    /// Say how long what is in RAM stays there.
    CacheKeep { what: Cached, target: Target, protect: Option<bool>, keep_alive: Option<KeepAlive> },
    /// Look at the disks.
    Scan { root: Option<String>, target: Target },
    /// Read a model's files again.
    Reidentify { model: String, target: Target },
    /// Hash what has no hashes yet.
    Hash { model: Option<String>, root: Option<String>, target: Target },
    /// Look for what is wrong with a model.
    Validate { model: String, level: ValidateLevel, target: Target },
    /// Write what is known of a model into a side-car or a copy.
    MetadataWrite { model: String, wanted: MetadataWriteRequest, version: Option<i64>, target: Target },
    /// Make a model of another layout or type.
    Convert { args: Box<ConvertArgs<String>>, target: Target },
    /// Give memory back; the device, where one is meant, is the target.
    Optimize { args: OptimizeArgs, target: Target },
    /// Run models.
    Run { args: EngineArgs<String>, target: Target },
    /// Measure a model.
    Benchmark { args: BenchmarkArgs<String>, target: Target },
    /// Work whose arguments name a pipeline in place of models.
    Assembled { kind: JobKind, args: Map<String, Value>, at: &'static str, target: Target },
    /// Make a pipeline ready on a device, as it is declared; of this generation only, where one is given.
    Apply { pipeline: String, generation: Option<i64>, manner: pipeline::Manner },
    /// Run a pipeline's base as it is again.
    Restore { pipeline: String, place: pipeline::Where, verify: bool },
    /// Do again what an ended job was asked to do.
    Again(JobId),
}

/// What to remove from RAM.
#[derive(Debug, Clone)]
pub(crate) enum Cached {
    /// Everything that is not in use.
    All,
    /// The components of a model, by id or name.
    Model(String),
    /// One component.
    Component(ComponentId),
}

/// What a client wants, and how.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// What.
    pub(crate) wanted: Wanted,
    /// Higher goes first.
    pub(crate) priority: i32,
    /// Labels that the place must have.
    pub(crate) labels: Vec<String>,
    /// Attempts allowed, if not the default.
    pub(crate) max_attempts: Option<i32>,
    /// The job that this repeats.
    pub(crate) retry_of: Option<JobId>,
    /// Where the arguments stand in the request's body.
    pub(crate) at: &'static str,
}

impl Order {
    /// An order with default priority, labels and attempts.
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { wanted, priority: 0, labels: Vec::new(), max_attempts: None, retry_of: None, at: "" }
    }
}

/// Where the work goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Spread {
    /// One job at the job's target.
    One,
    /// A parent with the job's target and a child for each of these places.
    Places(Vec<Target>),
    /// As `Places`, with arguments of its own for each.
    Each(Vec<(Target, JobSpec)>),
}

/// A place that a job for all places does not go to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LeftOut {
    place: String,
    reason: String,
}

/// What to enqueue.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The job (the parent, where there are several places).
    pub(crate) job: NewJob,
    /// Where it goes.
    pub(crate) spread: Spread,
}

/// A decision of one kind of work: the job's arguments, its target, where it goes, and the bytes that it touches.
#[derive(Debug)]
pub(crate) struct Decision {
    spec: JobSpec,
    target: Target,
    spread: Spread,
    needs: Needs,
    /// Of a job for all places: where it does not go.
    left_out: Vec<LeftOut>,
}

/// Plans an order.
///
/// # Errors
/// 400, 404, 409, 415 and 507 problems for what cannot work; database errors.
pub(crate) async fn make(state: &AppState, order: Order, asked: &Asked) -> Result<Plan, ApiError> {
    let at = order.at;
    planned(state, order, asked).await.map_err(|problem| problem.within(at))
}

async fn planned(state: &AppState, order: Order, asked: &Asked) -> Result<Plan, ApiError> {
    let mut conn = state.connection().await?;
    let order = match order.wanted {
        Wanted::Again(id) => retry::order(&mut conn, id).await?,
        Wanted::Assembled { kind, args, at, target } => {
            let wanted = assembled::resolve(&mut conn, kind, args, at, target).await?;
            Order { wanted, ..order }
        }
        Wanted::Apply { ref pipeline, .. } => {
            let mut labels = crate::pipelines::get(&mut conn, pipeline).await?.labels;
            labels.extend(order.labels.iter().filter(|label| !labels.contains(label)).cloned().collect::<Vec<_>>());
            Order { labels, ..order }
        }
        _ => order,
    };
    if let Some(attempts) = order.max_attempts.filter(|attempts| !(1..=10).contains(attempts)) {
        return Err(ApiError::field("/max_attempts", format!("`{attempts}` attempts cannot be given: 1 to 10")));
    }
    let view = View::read(state, &mut conn).await?;
    let decision = Box::pin(decide(&mut conn, &view, &order)).await?;
    let mut plan = decision.plan();
    plan.job.priority = order.priority;
    plan.job.max_attempts = order.max_attempts.unwrap_or(plan.job.max_attempts);
    plan.job.need_labels = order.labels;
    plan.job.retry_of = order.retry_of;
    plan.job.traceparent.clone_from(&asked.traceparent);
    Ok(plan)
}

impl Decision {
    /// A job with default priority, labels and attempts.
    pub(crate) fn plan(self) -> Plan {
        let mut job = NewJob::new(self.spec, self.target);
        job.needs = self.needs;
        if !self.left_out.is_empty() {
            job.placement = Some(serde_json::json!({ "left_out": self.left_out }));
        }
        Plan { job, spread: self.spread }
    }
}

async fn decide(conn: &mut Session, view: &View, order: &Order) -> Result<Decision, ApiError> {
    match &order.wanted {
        Wanted::Load { model, components, target, keep } => {
            let subject = Subject::read(conn, model, components.as_deref()).await?;
            load::decide(view, &subject, components.clone(), *keep, target, &order.labels)
        }
        Wanted::Unload { model, components, from_ram, force, wait_for_jobs, target } => {
            let subject = Subject::read(conn, model, components.as_deref()).await?;
            let manner =
                unload::Manner { from_ram: *from_ram, force: *force, wait_for_jobs: *wait_for_jobs, component: None };
            unload::decide(conn, view, &subject, components.clone(), manner, target.as_ref()).await
        }
        Wanted::UnloadComponent { component, device } => {
            device.as_ref().map(|device| get_device(view, device)).transpose()?;
            let row = get_component(conn, *component).await?;
            let kinds = vec![row.kind.clone()];
            let subject = Subject::read(conn, &row.model_id.to_string(), Some(&kinds)).await?;
            let target = device.clone().map(Target::Device);
            let manner = unload::Manner { component: Some(row.id), ..unload::Manner::default() };
            unload::decide(conn, view, &subject, Some(kinds), manner, target.as_ref()).await
        }
        Wanted::CacheAdd { model, components, target, keep } => {
            let subject = Subject::read(conn, model, components.as_deref()).await?;
            cache::decide_add(view, &subject, components.clone(), *keep, target, &order.labels)
        }
        Wanted::CacheRemove { what, cancel_loads, target } => {
            cache::decide_remove(conn, view, what, *cancel_loads, target).await
        }
        Wanted::CacheKeep { what, target, protect, keep_alive } => {
            cache::decide_keep(conn, view, what, target, *protect, *keep_alive).await
        }
        Wanted::Scan { root, target } => scan::decide(conn, view, root.as_deref(), target).await,
        Wanted::Reidentify { model, target } => {
            let subject = Subject::read(conn, model, None).await?;
            scan::decide_again(view, &subject, target)
        }
        Wanted::Hash { model, root, target } => {
            hash::decide(conn, view, model.as_deref(), root.as_deref(), target).await
        }
        Wanted::Validate { model, level, target } => {
            let subject = Subject::read(conn, model, None).await?;
            validate::decide(view, &subject, *level, target, &order.labels)
        }
        Wanted::MetadataWrite { model, wanted, version, target } => {
            let subject = Subject::read(conn, model, None).await?;
            metadata_write::decide(view, &subject, wanted, *version, target)
        }
        Wanted::Convert { args, target } => convert::decide(conn, view, args, target).await,
        Wanted::Optimize { args, target } => optimize::decide(view, args, target),
        Wanted::Run { args, target } => engine::decide(conn, view, args, target, &order.labels).await,
        Wanted::Benchmark { args, target } => {
            let subject = Subject::read(conn, &args.model, args.components.as_deref()).await?;
            benchmark::decide(conn, view, subject, args, target, &order.labels).await
        }
        Wanted::Apply { pipeline, generation, manner } => {
            pipeline::decide_apply(conn, view, (pipeline, *generation), manner, &order.labels).await
        }
        Wanted::Restore { pipeline, place, verify } => {
            pipeline::decide_restore(conn, view, pipeline, place, *verify).await
        }
        Wanted::Assembled { kind, .. } => {
            Err(ApiError::new(ErrorCode::Internal, format!("the pipeline of a `{kind}` job was not looked up")))
        }
        Wanted::Again(id) => Err(ApiError::conflict(format!("job {id} repeats another retry"))),
    }
}
