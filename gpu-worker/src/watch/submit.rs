//! Asking for a scan, as the periodic one is asked for: one job of this host and root, never a second one that waits.

use shared::{
    db::{DbError, jobs},
    job::{JobSpec, NewJob, ScanArgs, Target, enqueue},
};

use crate::context::Agent;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// There is a new job.
    New,
    /// One that has not begun will see everything.
    Waits,
    /// One has begun and may have passed what changed: ask again later.
    Runs,
}

/// Makes sure that a scan of the root begins after this moment, or says that it has to be asked for again.
pub(crate) async fn submit(agent: &Agent, root: &str) -> Result<Asked, DbError> {
    let mut tx = agent.pool.begin().await?;
    if jobs::scan_waits(&mut *tx, &agent.host, root).await? {
        return Ok(Asked::Waits);
    }
    let args = ScanArgs { root: Some(root.to_owned()), model: None };
    let job = NewJob::new(JobSpec::Scan(args), Target::Host(agent.host.clone()));
    let enqueued = enqueue(&mut tx, job).await?;
    tx.commit().await?;
    if enqueued.created {
        tracing::info!(root, job.id = %enqueued.id, "files changed; asked for a scan");
    }
    Ok(if enqueued.created { Asked::New } else { Asked::Runs })
}
