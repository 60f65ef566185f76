//! Enqueueing inside the caller's transaction: the job row, its event and one wake-up hint commit with the caller's rows (G1).

use sqlx::PgConnection;

use super::{kind::Lane, spec::JobSpec, target::Target};
use crate::{
    db::{DbError, jobs as table},
    ids::JobId,
};

/// A job to be accepted. Built with [`NewJob::new`] and the fields that differ from the defaults.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What to do.
    pub spec: JobSpec,
    /// Where it may run.
    pub target: Target,
    /// Higher goes first.
    pub priority: i32,
    /// Labels that the host or device must have.
    pub need_labels: Vec<String>,
    /// Bytes that the place needs, as the placement sees them.
    pub needs: Needs,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// The parent whose child this is.
    pub parent: Option<JobId>,
    /// The ended job that this one repeats.
    pub retry_of: Option<JobId>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// Of a job with children: the places that were left out, and why.
    pub placement: Option<serde_json::Value>,
}

/// What the placement must know of the work, recorded at enqueue.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Needs {
    /// Components that the job touches, with their bytes.
    #[serde(default)]
    pub components: Vec<(crate::ids::ComponentId, u64)>,
}

impl Needs {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.components.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl NewJob {
    /// A job with default priority and attempts.
    pub fn new(spec: JobSpec, target: Target) -> Self {
        Self {
            spec,
            target,
            priority: 0,
            need_labels: Vec::new(),
            needs: Needs::default(),
            max_attempts: 3,
            parent: None,
            retry_of: None,
            traceparent: None,
            placement: None,
        }
    }
}

/// The answer to an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// The job that does the work.
    pub id: JobId,
    /// False when an equal active job was joined.
    pub created: bool,
}

/// Accepts one job for one place (any target but `all`) in the caller's transaction.
///
/// # Errors
/// Database errors; the caller's transaction is then lost as a whole.
pub async fn enqueue(tx: &mut PgConnection, job: NewJob) -> Result<Enqueued, DbError> {
    let lane = job.spec.lane();
    table::insert(tx, &job, lane).await
}

/// Accepts a job for several places: a parent and one child for each target, all in the caller's transaction.
///
/// # Errors
/// As [`enqueue`].
pub async fn enqueue_all(tx: &mut PgConnection, job: NewJob, targets: Vec<Target>) -> Result<Enqueued, DbError> {
    enqueue_group(tx, NewJob { target: Target::All, ..job }, targets).await
}

/// As [`enqueue_all`], for places that do not cover all of the farm: the parent keeps the job's own target.
///
/// # Errors
/// As [`enqueue`].
pub async fn enqueue_group(tx: &mut PgConnection, job: NewJob, targets: Vec<Target>) -> Result<Enqueued, DbError> {
    let each = targets.into_iter().map(|target| (target, job.spec.clone())).collect();
    enqueue_each(tx, job, each).await
}

/// As [`enqueue_group`], with arguments of its own for each child.
///
/// # Errors
/// As [`enqueue`].
pub async fn enqueue_each(
    tx: &mut PgConnection,
    job: NewJob,
    each: Vec<(Target, JobSpec)>,
) -> Result<Enqueued, DbError> {
    let parent = table::insert(tx, &job, Lane::Fanout).await?;
    if !parent.created {
        return Ok(parent);
    }
    for (target, spec) in each {
        let child = NewJob { spec, target, parent: Some(parent.id), placement: None, ..job.clone() };
        let lane = child.spec.lane();
        table::insert(tx, &child, lane).await?;
    }
    table::settle_parent(tx, parent.id).await?;
    Ok(parent)
}
