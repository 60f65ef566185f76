//! A new model that a job made: in the catalogue with it, and nobody's where bytes that it was made from turned out to be others than are
//! registered.

use model_formats::{convert, write::Place};
use shared::{
    db::{
        DbError, Session,
        jobs::JobLease,
        models::{self, FoundModel},
    },
    error::{ErrorBody, ErrorCode, chain},
    ids::JobId,
    job::rules::Report,
};

use super::{
    Met,
    hashed::{self, Hashed},
    with_result,
};
use crate::{context::Agent, judge::Other};

/// Records it, and what was computed of its sources.
pub(super) async fn record(
    agent: &Agent,
    tx: &mut Session,
    lease: JobLease,
    report: &Report,
    (root, model, hashed): (&str, &FoundModel, &Hashed),
    met: &mut Met,
) -> Result<Report, DbError> {
    // before any row of its models, as a scan does: neither waits for the other while it is waited for
    models::lock_root(tx, root).await?;
    hashed::record(agent, tx, lease, hashed, met).await?;
    if let Some(other) = met.differing.others.first() {
        return Ok(of_others(hashed, other));
    }
    let (id, name) = models::record_one(tx, &agent.host, root, model).await?;
    let report = hashed::told(report, hashed, &[], &met.uncompared);
    Ok(with_result(&with_result(&report, "model", id.to_string().into()), "name", name.into()))
}

fn of_others(hashed: &Hashed, other: &Other) -> Report {
    let source = hashed.models.iter().find(|model| model.files.iter().any(|file| other.files.contains(file)));
    let path = source.map_or("a source", |source| source.path.as_str());
    let message = format!(
        "`{path}` was read with digest `{}`, and `{}` is registered: what was made of it is taken away again",
        other.actual, other.expected
    );
    let hint = Some(models::CORRUPT_HINT.to_owned());
    Report::Failed { error: ErrorBody { hint, ..ErrorBody::new(ErrorCode::Corrupt, message) } }
}

/// Takes away what such a job wrote. What cannot be removed is said, and is what the next scan finds.
pub(super) async fn withdraw(agent: &Agent, root: &str, model: &FoundModel, job: JobId) {
    let Some(root) = agent.roots.iter().find(|own| own.name == root) else { return };
    let (folder, below) = (root.path.clone(), model.rel_path.clone());
    let withdraw = move || Place::open(&folder, &below).and_then(|place| convert::withdraw(&place, &job.to_string()));
    let why = match tokio::task::spawn_blocking(withdraw).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => chain(&error),
        Err(error) => chain(&error),
    };
    tracing::warn!(root = root.name, path = model.rel_path, why, "what was made of corrupt files is still there");
}
