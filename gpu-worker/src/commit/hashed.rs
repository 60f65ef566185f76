//! What a hash job computed, and how it is recorded: nothing of a model whose bytes are not those that are registered.

use std::collections::BTreeSet;

use shared::{
    db::{
        DbError, Session,
        hashes::{self, FileHashRow, ModelHashes},
        jobs::JobLease,
        models::{self, FileIdentity, FileKey},
    },
    error::{ErrorBody, ErrorCode},
    ids::ModelId,
    job::{HashArgs, rules::Report},
};

use super::{Met, register, with_result};
use crate::{
    context::Agent,
    executors::HashedPart,
    judge::{self, Other},
};

/// What a hash job computed.
#[derive(Debug, Default)]
pub struct Hashed {
    /// Files that were read.
    pub files: Vec<(FileIdentity, FileHashRow)>,
    /// Models all of whose files are hashed.
    pub models: Vec<HashedModel>,
    /// What a following job has to do.
    pub again: Option<HashArgs>,
    /// The job is about one model: other bytes than are registered fail it.
    pub alone: bool,
    /// All models of the host that had no hashes when the job began; none for a job about one model or root.
    pub looked_at: Option<BTreeSet<ModelId>>,
}

/// A model all of whose files were read.
#[derive(Debug)]
pub struct HashedModel {
    /// The hashes of its files.
    pub hashes: ModelHashes,
    /// Where it is.
    pub path: String,
    /// Its files.
    pub files: Vec<FileKey>,
    /// Its components.
    pub parts: Vec<HashedPart>,
}

/// Records what a hash job computed. Of a model with other bytes than are registered nothing is recorded (G7): what else was read
/// of its files says nothing either.
pub(super) async fn record(
    agent: &Agent,
    tx: &mut Session,
    lease: JobLease,
    hashed: &Hashed,
    met: &mut Met,
) -> Result<(), DbError> {
    let mut well = Vec::new();
    for model in &hashed.models {
        let before = met.differing.count();
        for part in &model.parts {
            judge::component(agent, tx, lease.id, &judge::of_part(part), &mut met.differing).await?;
        }
        if met.differing.count() == before {
            well.push(model);
        }
    }
    judge::files(agent, tx, lease.id, &hashed.files, &mut met.differing).await?;
    well.retain(|model| !met.differing.names(&model.files));
    // nothing said that these are well again, so they are not what later reads are compared with
    let mut compared = Vec::new();
    for model in well {
        if judge::is_marked(agent, tx, &model.files).await? {
            met.uncompared.push(model.path.clone());
        } else {
            compared.push(model);
        }
    }
    let well = compared;
    record_models(agent, tx, lease, &well, met).await
}

/// Records hashed models with their parts. A part for which other bytes were registered since it was compared is refused.
async fn record_models(
    agent: &Agent,
    tx: &mut Session,
    lease: JobLease,
    hashed: &[&HashedModel],
    met: &mut Met,
) -> Result<(), DbError> {
    let mut recorded: Vec<&HashedPart> = Vec::new();
    for HashedModel { hashes, parts, .. } in hashed {
        // other files by now: the next scan leads to hashing again
        if !hashes::record_model(tx, &agent.host, hashes).await? {
            continue;
        }
        for part in parts {
            // what the model is now may be other components than were read
            if models::set_tensors(tx, hashes.model, &part.kind, part.id, &part.tensors).await? {
                recorded.push(part);
            }
        }
    }
    let digests = recorded.iter().map(|part| (part.id, part.digest.as_str())).collect();
    for (component, digest) in register(tx, digests, met).await? {
        for part in recorded.iter().filter(|part| part.id == component && part.digest == digest) {
            judge::component(agent, tx, lease.id, &judge::of_part(part), &mut met.differing).await?;
        }
    }
    Ok(())
}

/// A hash job says what it refused, and fails for it when it is about that model alone.
pub(super) fn told(report: &Report, hashed: &Hashed, others: &[Other], uncompared: &[String]) -> Report {
    let Some(first) = others.first() else { return kept(report, hashed, uncompared) };
    if hashed.alone {
        let path = hashed.models.first().map(|model| model.path.as_str()).unwrap_or_default();
        let message =
            format!("`{path}` was read with digest `{}`, and `{}` is registered", first.actual, first.expected);
        let hint = Some(models::CORRUPT_HINT.to_owned());
        return Report::Failed { error: ErrorBody { hint, ..ErrorBody::new(ErrorCode::Corrupt, message) } };
    }
    let shown = |other: &Other| serde_json::json!({ "component": other.component, "digest": other.actual, "registered": other.expected });
    let report = with_result(report, "refused", others.iter().map(shown).collect());
    kept(&report, hashed, uncompared)
}

/// The same of files whose marks stay because nothing of them could be compared.
fn kept(report: &Report, hashed: &Hashed, uncompared: &[String]) -> Report {
    match uncompared.first() {
        None => report.clone(),
        Some(first) if hashed.alone => {
            Report::Failed { error: ErrorBody::new(ErrorCode::Corrupt, judge::uncompared(first)) }
        }
        Some(_) => with_result(report, "still_marked", uncompared.into()),
    }
}
