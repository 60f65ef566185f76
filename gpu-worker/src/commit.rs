//! The one transaction that ends an attempt: the fenced settle together with what the work changed in the catalogue.

mod hashed;
mod made;

use std::sync::atomic::Ordering;

use shared::db::Session;
use shared::{
    bytes::ByteSize,
    db::{
        DbError,
        benchmarks::{self, NewBenchmark},
        blobs::{
            self,
            artifacts::{self, NewArtifact},
        },
        hashes,
        jobs::{self, JobLease, Settlement},
        models::{self, FileKey, FoundModel, Registered, Scan},
        residency,
        validations::{self, NewValidation},
    },
    error::{ErrorBody, ErrorCode},
    ids::{ComponentId, ModelId},
    job::{
        HashArgs, JobSpec, NewJob, ScanArgs, Target,
        engine::check_artifact_name,
        enqueue,
        rules::{self, Report},
    },
};

pub use hashed::{Hashed, HashedModel};

use crate::{
    aliases,
    catalogue::{CANONICAL_FORM, ScannedRoot},
    context::Agent,
    error::WorkError,
    executors::{PipelineChange, Recorded},
    judge::{self, Differing, ReadComponent, Reads},
    publisher, residents,
};

/// What an attempt changes beside its job's row.
#[derive(Debug)]
pub enum Effects {
    /// Nothing.
    None,
    /// The catalogue of these roots.
    Scanned {
        /// What each holds, or why it cannot be read.
        roots: Vec<(String, Result<ScannedRoot, String>)>,
        /// The model that somebody wanted to be read again.
        again: Option<ModelId>,
    },
    /// Files gave other bytes than are registered, and the work failed for it.
    Misread(Box<ReadComponent>),
    /// Residency of this host, and digests that loads computed.
    Resident(Vec<(ComponentId, String)>),
    /// Hashes of files and models.
    Hashed(Hashed),
    /// A report about a model, what was read to compare it, and what loads before its runs computed.
    Validated(Box<NewValidation>, Box<Reads>, Vec<(ComponentId, String)>),
    /// What was measured, and what loads computed meanwhile.
    Benchmarked(Box<NewBenchmark>, Vec<(ComponentId, String)>),
    /// Files that the job leaves, and what the loads before its run computed.
    Artifacts(Vec<NewArtifact>, Vec<(ComponentId, String)>),
    /// A pipeline was applied or restored, and what loads before it computed.
    Pipeline(Box<PipelineChange>, Vec<(ComponentId, String)>),
    /// A new model below this root, which is in the catalogue with its job.
    Made {
        /// Name of the root.
        root: String,
        /// Its row.
        model: Box<FoundModel>,
        /// What was computed of the models that it is made from.
        hashed: Hashed,
    },
    /// A file below this root, which the catalogue has to learn of.
    Wrote {
        /// Name of the root.
        root: String,
    },
}

/// Most models without hashes that are looked through for new ones.
const MANY: i64 = 20_000;
/// Priority of hashing that nobody asked for: everything else goes first.
const BACKGROUND: i32 = -100;

/// Commits a report and its effects, or nothing.
///
/// # Errors
/// Database errors; the caller may try again.
pub async fn commit(agent: &Agent, lease: JobLease, report: &Report, effects: &Effects) -> Result<Settlement, DbError> {
    if matches!(effects, Effects::None) {
        return jobs::report(&agent.pool, &agent.teller, lease, report, rules::jitter()).await;
    }
    let mut tx = agent.pool.begin().await?;
    // before the job's row is locked: what is long must not keep others from it
    let written = match effects {
        Effects::Artifacts(left, _) => artifacts::write_all(&mut tx, left).await?,
        _ => Vec::new(),
    };
    if jobs::hold(&mut tx, lease).await?.is_none() {
        return Ok(Settlement::Stale);
    }
    if let Effects::Artifacts(left, _) = effects {
        artifacts::name_all(&mut tx, lease.id, left, &written).await?;
    }
    let mut met = Met::default();
    let report = apply(agent, &mut tx, lease, report, effects, &mut met).await?;
    if !met.refused.is_empty() {
        // what wrong weights made is nobody's result
        for blob in written {
            blobs::remove(&mut *tx, blob).await?;
        }
    }
    let settlement = jobs::settle(&mut tx, lease, &report, rules::jitter()).await?;
    if settlement == Settlement::Stale {
        return Ok(settlement);
    }
    follow_up(agent, &mut tx, lease, effects).await?;
    if let Effects::Pipeline(change, _) = effects {
        // the job is this attempt's, and nobody who sees it succeed may see the device as it was before
        let recorded = if met.refused.is_empty() { met.pipeline } else { Recorded::Nothing };
        change.note(agent, recorded);
        met.reports = true;
        publisher::publish_now(agent).await;
    }
    // last: the locks of what is resident, on other hosts as well, are held for as short as can be, and nothing else is waited for with them
    residency::merge(&mut tx, &agent.host, &met.merged).await?;
    let told = if met.reports {
        // the publisher compares with what it wrote itself, and has to look again
        agent.stored.fetch_add(1, Ordering::AcqRel);
        residents::store(agent, &mut tx).await?
    } else {
        None
    };
    tx.commit().await?;
    told.iter().for_each(|told| residents::told(agent, told));
    for (held, now) in met.merged {
        agent.aliases.learn(held, now);
        agent.devices.values().for_each(|device| device.variants.merged(held, now));
        aliases::fold(agent, held, now).await;
    }
    for component in met.refused {
        aliases::give_back(agent, component).await;
    }
    if let Effects::Made { root, model, .. } = effects
        && !met.differing.others.is_empty()
    {
        made::withdraw(agent, root, model, lease.id).await;
    }
    for other in met.differing.others {
        agent.metrics.digest_mismatches.inc();
        tracing::error!(
            component = other.component.map(tracing::field::display), files = ?other.files, expected = other.expected,
            actual = other.actual, "bytes on disk are not those that are registered; these files are marked as corrupt"
        );
    }
    Ok(settlement)
}

/// What became of components whose digests met those of the catalogue.
#[derive(Debug, Default)]
struct Met {
    /// Those that turned out to be others: the id they are held under, and the one they have now.
    merged: Vec<(ComponentId, ComponentId)>,
    /// Those whose bytes are not the registered ones and must not stay resident (G7).
    refused: Vec<ComponentId>,
    /// Reads that were not what is registered.
    differing: Differing,
    /// Models whose files stay marked, because nothing of them could be compared.
    uncompared: Vec<String>,
    /// What was recorded of a pipeline.
    pipeline: Recorded,
    /// What is resident is told with it.
    reports: bool,
}

async fn apply(
    agent: &Agent,
    tx: &mut Session,
    lease: JobLease,
    report: &Report,
    effects: &Effects,
    met: &mut Met,
) -> Result<Report, DbError> {
    match effects {
        Effects::None | Effects::Wrote { .. } => Ok(report.clone()),
        Effects::Made { root, model, hashed } => {
            made::record(agent, tx, lease, report, (root, model, hashed), met).await
        }
        Effects::Artifacts(left, digests) => {
            let report = resident(agent, tx, lease, digests, report, met).await?;
            Ok(with_result(&report, "artifacts", names(left)))
        }
        Effects::Misread(read) => {
            judge::component(agent, tx, lease.id, read, &mut met.differing).await?;
            Ok(report.clone())
        }
        Effects::Scanned { roots, again } => {
            let mut counts = serde_json::Map::new();
            for (root, found) in roots {
                counts.insert(root.clone(), record_root(agent, tx, root, found).await?);
            }
            let mut report = with_result(report, "roots", counts.into());
            if let Some(model) = again {
                let (taken, left) = models::take_marks_off(tx, *model).await?;
                if (taken, left) != (0, 0) {
                    report = with_result(&report, "marks", marks(taken, left));
                }
            }
            Ok(report)
        }
        Effects::Resident(digests) => resident(agent, tx, lease, digests, report, met).await,
        Effects::Pipeline(change, digests) => {
            let report = resident(agent, tx, lease, digests, report, met).await?;
            if met.refused.is_empty() {
                met.pipeline = change.record(agent, tx, lease).await?;
            }
            Ok(report)
        }
        Effects::Hashed(done) => {
            hashed::record(agent, tx, lease, done, met).await?;
            Ok(hashed::told(report, done, &met.differing.others, &met.uncompared))
        }
        Effects::Validated(validation, reads, digests) => {
            judge::all(agent, tx, lease.id, reads, &mut met.differing).await?;
            let mut report = resident(agent, tx, lease, digests, report, met).await?;
            let read: Vec<FileKey> = reads.files.iter().map(|(file, _)| file.into()).collect();
            if !met.differing.names(&read) && judge::is_marked(agent, tx, &read).await? {
                let said = "files of the model stay marked as corrupt: nothing is registered that what was read of them could be compared \
                            with, and nothing of them was recorded; once they are known to be good, replace or touch them and scan";
                report = with_result(&report, "still_marked", said.into());
            }
            if !met.refused.is_empty() {
                return Ok(report);
            }
            let recorded = validations::record(tx, lease.id, validation).await?;
            Ok(if recorded { report } else { gone(validation.model, "validated") })
        }
        Effects::Benchmarked(benchmark, digests) => {
            let report = resident(agent, tx, lease, digests, report, met).await?;
            if !met.refused.is_empty() {
                return Ok(report);
            }
            let recorded = benchmarks::record(tx, lease.id, benchmark).await?;
            Ok(if recorded { report } else { gone(benchmark.model, "measured") })
        }
    }
}

/// What is resident now and which digests loads computed; a load of bytes that are not the registered ones fails (G7).
async fn resident(
    agent: &Agent,
    tx: &mut Session,
    lease: JobLease,
    digests: &[(ComponentId, String)],
    report: &Report,
    met: &mut Met,
) -> Result<Report, DbError> {
    let digests = digests.iter().map(|(component, digest)| (*component, digest.as_str()));
    let refused = register(tx, digests.collect(), met).await?;
    if let Some((component, digest)) = refused.first() {
        let report = mismatch(*component, digest);
        for (component, digest) in refused {
            met.refused.push(component);
            let read = ReadComponent { component, files: files_in_ram(agent, component), digest: digest.to_owned() };
            judge::component(agent, tx, lease.id, &read, &mut met.differing).await?;
        }
        return Ok(report);
    }
    met.reports = true;
    Ok(report.clone())
}

/// The files that a component in RAM was read from.
fn files_in_ram(agent: &Agent, component: ComponentId) -> Vec<FileKey> {
    let held = agent.aliases.held(component).into_iter().map(|id| agent.tier.files_of(&id.to_string()));
    held.flatten().map(|file| judge::key_of(&file)).collect()
}

/// Registers digests that reads computed; those that contradict a registered one.
async fn register<'d>(
    tx: &mut Session,
    mut digests: Vec<(ComponentId, &'d str)>,
    met: &mut Met,
) -> Result<Vec<(ComponentId, &'d str)>, DbError> {
    // in one order everywhere: two jobs with the same components lock their rows one after the other
    digests.sort_unstable_by(|a, b| a.1.cmp(b.1));
    let mut refused = Vec::new();
    for (component, digest) in digests {
        match models::register_digest(tx, component, digest, CANONICAL_FORM).await? {
            Registered::Own | Registered::Gone => {}
            Registered::Merged(now) => met.merged.push((component, now)),
            Registered::Mismatch => refused.push((component, digest)),
        }
    }
    Ok(refused)
}

/// What follows: a scan of what an operator corrected while it was read, and hashing after a scan that left something to
/// hash or after a slice of it. Comes after the settle, so that a job never joins itself.
async fn follow_up(agent: &Agent, tx: &mut Session, lease: JobLease, effects: &Effects) -> Result<(), DbError> {
    if let Effects::Scanned { .. } = effects {
        for root in models::misread(&mut *tx, &agent.host, Some(lease.id)).await? {
            let args = ScanArgs { root: Some(root), model: None };
            enqueue(tx, NewJob::new(JobSpec::Scan(args), Target::Host(agent.host.clone()))).await?;
        }
    }
    if let Effects::Wrote { root } = effects {
        let args = ScanArgs { root: Some(root.clone()), model: None };
        enqueue(tx, NewJob::new(JobSpec::Scan(args), Target::Host(agent.host.clone()))).await?;
        return Ok(());
    }
    let args = match effects {
        Effects::Hashed(Hashed { again: Some(args), .. }) => args.clone(),
        Effects::Scanned { .. } | Effects::Made { .. } if agent.hashes_after_scan => {
            if hashes::unhashed(&mut *tx, &agent.host, None, None, CANONICAL_FORM, 1).await?.is_empty() {
                return Ok(());
            }
            HashArgs::default()
        }
        // models that were recorded meanwhile joined this job, which had its list by then
        Effects::Hashed(Hashed { looked_at: Some(looked_at), .. }) if agent.hashes_after_scan => {
            let without = hashes::unhashed(&mut *tx, &agent.host, None, None, CANONICAL_FORM, MANY).await?;
            if without.iter().all(|model| looked_at.contains(&model.id)) {
                return Ok(());
            }
            HashArgs::default()
        }
        _ => return Ok(()),
    };
    let mut job = NewJob::new(JobSpec::Hash(args), Target::Host(agent.host.clone()));
    job.priority = BACKGROUND;
    enqueue(tx, job).await?;
    Ok(())
}

fn names(left: &[NewArtifact]) -> serde_json::Value {
    left.iter().map(|artifact| artifact.name.as_str()).collect()
}

/// Looks at what a job leaves before it counts as done.
///
/// # Errors
/// [`WorkError::BadArtifacts`] for too many bytes, or a name that cannot be.
pub fn check(agent: &Agent, effects: &Effects) -> Result<(), WorkError> {
    match effects {
        Effects::Artifacts(left, _) => {
            unfit_artifacts(left, agent.artifact_limit).map_or(Ok(()), |why| Err(WorkError::BadArtifacts(why)))
        }
        _ => Ok(()),
    }
}

fn unfit_artifacts(left: &[NewArtifact], limit: ByteSize) -> Option<String> {
    let bytes = left.iter().fold(0u64, |sum, artifact| sum.saturating_add(artifact.bytes.len() as u64));
    if bytes > limit.0 {
        return Some(format!(
            "the job's artifacts have {} ({bytes} bytes), more than the {limit} of --artifact-limit of the host's agent",
            ByteSize(bytes)
        ));
    }
    let wrong = left.iter().find_map(|artifact| Some((artifact, check_artifact_name(&artifact.name).err()?)));
    wrong.map(|(artifact, why)| format!("the artifact name {:?} cannot be: {why}", artifact.name))
}

fn gone(model: ModelId, done: &str) -> Report {
    let message = format!("model {model} left the catalogue while it was {done}");
    Report::Failed { error: ErrorBody::new(ErrorCode::NotFound, message) }
}

async fn record_root(
    agent: &Agent,
    tx: &mut Session,
    root: &str,
    found: &Result<ScannedRoot, String>,
) -> Result<serde_json::Value, DbError> {
    match found {
        Ok(found) => {
            let scan = Scan { found: &found.models, recorded: &found.recorded, unchanged: &found.unchanged };
            let mut counts = models::record_scan(tx, &agent.host, root, scan).await?;
            counts += found.counts;
            serde_json::to_value(counts).map_err(|error| DbError::BadRow(error.to_string()))
        }
        Err(reason) => {
            models::root_missing(tx, &agent.host, root, reason).await?;
            Ok(serde_json::json!({ "missing": reason }))
        }
    }
}

/// What became of marks that somebody wanted off.
fn marks(taken: i64, left: i64) -> serde_json::Value {
    let mut marks = serde_json::json!({ "taken_off": taken, "left": left });
    if left > 0 {
        marks["why"] = "of these files a component's digest is not known, so that what is read next would be registered as it is; once \
                        they are known to be good, replace or touch them and scan"
            .into();
    }
    marks
}

fn with_result(report: &Report, key: &str, value: serde_json::Value) -> Report {
    let mut report = report.clone();
    if let Report::Succeeded { result: serde_json::Value::Object(result) } = &mut report {
        result.insert(key.to_owned(), value);
    }
    report
}

/// Another load registered other bytes for this component in the meantime (G7).
fn mismatch(component: ComponentId, digest: &str) -> Report {
    let message = format!("component {component} was read with digest {digest}, but another digest is registered");
    let hint = Some(models::CORRUPT_HINT.to_owned());
    Report::Failed { error: ErrorBody { hint, ..ErrorBody::new(ErrorCode::Corrupt, message) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_have_plain_names_and_a_limit() {
        let left = |name: &str, bytes: usize| NewArtifact {
            name: name.into(),
            media_type: "image/png".into(),
            bytes: vec![0; bytes],
        };
        let unfit = |artifacts: &[NewArtifact]| unfit_artifacts(artifacts, ByteSize(10));
        assert_eq!(unfit(&[left("a.png", 4), left("b.png", 6)]), None);
        assert!(unfit(&[left("a.png", 4), left("b.png", 7)]).unwrap().contains("--artifact-limit"));
        for name in ["../a.png", "a\0.png", "", "a/b"] {
            assert!(unfit(&[left(name, 1)]).unwrap().contains("cannot be"), "{name:?}");
        }
    }
}
