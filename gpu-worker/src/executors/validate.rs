//! `validate`: what is wrong with a model's files on this host. A bad model is a finding; a file that cannot be read now
//! fails the job.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use model_formats::{
    Inspection,
    validate::{self, Finding, Severity},
};
use serde_json::json;
use shared::{
    db::{
        DbError,
        hashes::{self, FileHashRow},
        models::{self, ComponentRow, FileIdentity, FileKey, LocationRow, ModelRow},
        statistics::TensorStatistics,
        validations::NewValidation,
    },
    ids::{ComponentId, ModelId, ValidationId},
    job::{ValidateArgs, ValidateLevel},
};

use super::{
    Done, forward,
    hash::{Parts, facts, hash_one, pace},
    load::watched,
    model::blocking,
};
use crate::{
    catalogue,
    commit::Effects,
    context::Agent,
    error::WorkError,
    judge::{self, Reads},
    running::Attempt,
};

/// Findings that a report keeps.
const FINDINGS: usize = 1000;
/// Tensors whose statistics a report keeps: more than any model that is known has.
const STATISTICS: usize = 20_000;
/// Bytes of their names.
const NAMES_BYTES: usize = 4 << 20;

pub(super) async fn run(agent: &Arc<Agent>, args: ValidateArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("locating", 0);
    let (model, here) = subject(agent, &args).await?;
    let path = Path::new(&here.root_path).join(&here.rel_path);
    attempt.progress.enter("reading headers", 0);
    let (inspection, findings) = {
        let (path, correction) = (path.clone(), catalogue::correction(&model.read_as));
        blocking("reading headers", move || validate::structure(&path, correction)).await?
    }
    .map_err(|source| WorkError::Format { path: path.display().to_string(), source })?;
    let configs = model.overrides.get("config").cloned();
    let mut check = Check {
        agent,
        attempt,
        model: args.model,
        path,
        configs,
        findings,
        tensors: 0,
        read: Arc::default(),
        reads: Reads::default(),
        statistics: None,
        digests: Vec::new(),
    };
    let mut files = here.identities()?;
    if let Some(inspection) = inspection {
        let known = std::mem::replace(&mut files, inspection.files.iter().map(catalogue::identity).collect());
        let comparable = known == files && model.canonical_form == catalogue::CANONICAL_FORM;
        check.deeper(args.level, inspection, (&files, comparable)).await?;
    }
    let Check { findings, tensors, read, reads, statistics, digests, .. } = check;
    let read = (tensors, read.load(Ordering::Relaxed));
    let mut report = report(agent, &args, findings, read, &files, started)?;
    report.statistics = statistics.map(|all| encoded(&all)).transpose()?;
    let [errors, warnings, infos] = report.counts;
    let result = json!({
        "model": model.name, "host": agent.host, "level": report.level, "verdict": report.verdict,
        "validation": report.id, "errors": errors, "warnings": warnings, "infos": infos,
        "tensors": report.tensors, "bytes": report.bytes, "seconds": report.seconds,
    });
    Ok(Done { result, effects: Effects::Validated(Box::new(report), Box::new(reads), digests) })
}

async fn subject(agent: &Agent, args: &ValidateArgs) -> Result<(ModelRow, LocationRow), WorkError> {
    let found = models::find(&agent.pool, &args.model.to_string()).await?;
    let model = found.filter(|model| model.id == args.model).ok_or(WorkError::NoModel(args.model))?;
    let locations = models::locations_of(&agent.pool, &[model.id]).await?;
    let here = locations.into_iter().find(|location| location.host == agent.host);
    let here = here.ok_or_else(|| WorkError::NotHere { model: model.name.clone(), host: agent.host.clone() })?;
    Ok((model, here))
}

/// A validation under way.
struct Check<'a> {
    agent: &'a Arc<Agent>,
    attempt: &'a Attempt,
    model: ModelId,
    path: PathBuf,
    /// The operator's `config.json`s by component.
    configs: Option<serde_json::Value>,
    findings: Vec<Finding>,
    tensors: u64,
    read: Arc<AtomicU64>,
    /// What was read to compare it with what is registered.
    reads: Reads,
    /// What the numbers of each tensor are like, where they were looked at.
    statistics: Option<Vec<TensorStatistics>>,
    /// What loads computed.
    digests: Vec<(ComponentId, String)>,
}

impl Check<'_> {
    async fn deeper(
        &mut self,
        level: ValidateLevel,
        inspection: Inspection,
        (files, comparable): (&[FileIdentity], bool),
    ) -> Result<(), WorkError> {
        match level {
            ValidateLevel::Structure => Ok(()),
            ValidateLevel::Hash => self.hashes(&inspection, files, comparable).await,
            ValidateLevel::Architecture => {
                self.findings.extend(validate::architecture(&inspection, self.configs.as_ref()));
                Ok(())
            }
            ValidateLevel::Forward => {
                self.findings.extend(validate::architecture(&inspection, self.configs.as_ref()));
                if self.findings.iter().any(|finding| finding.severity == Severity::Error) {
                    let message = "it was not run: what is wrong with it comes first";
                    self.findings.push(Finding::new(Severity::Info, "forward_skipped", message));
                    return Ok(());
                }
                let ran = forward::run(self.agent, self.model, self.attempt).await?;
                self.findings.extend(ran.findings);
                self.digests = ran.digests;
                Ok(())
            }
            ValidateLevel::Weights => {
                self.findings.extend(validate::architecture(&inspection, self.configs.as_ref()));
                self.weights(inspection).await
            }
        }
    }

    async fn weights(&mut self, inspection: Inspection) -> Result<(), WorkError> {
        let format = |source| WorkError::Format { path: self.path.display().to_string(), source };
        let (inspection, total) = blocking("reading headers", move || {
            let total = validate::weight_bytes(&inspection);
            (inspection, total)
        })
        .await?;
        self.attempt.progress.enter("reading", total.map_err(format)?);
        let limits = self.agent.throttle.iter().cloned().collect();
        let mut pace = pace(limits, self.attempt.cancel.clone(), self.read.clone());
        let work = blocking("reading weights", move || validate::weights(&inspection, &mut pace));
        let checked = watched(self.attempt, work, || self.read.load(Ordering::Relaxed)).await?;
        let path = || self.path.display().to_string();
        let checked = checked.map_err(|source| WorkError::Format { path: path(), source })?;
        let checked = checked.ok_or(WorkError::Cancelled)?;
        self.tensors = checked.tensors;
        self.findings.extend(checked.findings);
        self.statistics = Some(kept(checked.statistics));
        Ok(())
    }

    /// Recomputes the hashes of all files and compares them with what was recorded of the same files; where they are those of the
    /// catalogue, and it was read as this build reads, also the digests of all components.
    async fn hashes(
        &mut self,
        inspection: &Inspection,
        files: &[FileIdentity],
        comparable: bool,
    ) -> Result<(), WorkError> {
        let keys: Vec<FileKey> = files.iter().map(FileKey::from).collect();
        let mut rows =
            if comparable { models::components_of(&self.agent.pool, &[self.model]).await? } else { Vec::new() };
        // marks may name digests of components that the model had before, which tell as well
        if models::marked_among(&self.agent.pool, &self.agent.host, &keys).await?.is_empty() {
            rows.retain(|row| row.digest.is_some());
        }
        let (mut parts, mut unknown) = (Parts::of(&rows, inspection), Vec::new());
        self.attempt.progress.enter("hashing", files.iter().map(|file| file.size_bytes).sum());
        for file in files {
            self.attempt.progress.detail(&file.rel_path);
            let recorded = hashes::of_file(&self.agent.pool, &self.agent.host, file).await?;
            let limits = self.agent.throttle.iter().cloned().collect();
            let at = facts(&self.path, file);
            let wanted = parts.wanted(&at.path);
            let ranges = wanted.iter().map(|(_, range)| range.clone()).collect();
            let work = hash_one(self.attempt, at, ranges, self.read.clone(), limits);
            let (now, ranges) = watched(self.attempt, work, || self.read.load(Ordering::Relaxed)).await?;
            parts.note(&wanted, ranges);
            self.findings.extend(claimed(inspection, files, &now));
            match recorded {
                Some(recorded) => self.findings.extend(difference(file, &recorded, &now)),
                None => unknown.push(file),
            }
            self.reads.files.push((file.clone(), now));
        }
        let mut bad = self.components(&rows, parts).await?;
        // what stays marked is not recorded, and whether it does is told with the job's end
        bad.extend(models::marked_among(&self.agent.pool, &self.agent.host, &keys).await?);
        for file in unknown.into_iter().filter(|file| !bad.contains(&FileKey::from(*file))) {
            let message = format!("{} had no recorded hashes; they are recorded now", shown(file));
            self.findings.push(Finding::new(Severity::Info, "hash_recorded", message));
        }
        Ok(())
    }

    /// Looks at the digests of components that have one, as they were just read; the files of those that differ.
    async fn components(&mut self, rows: &[ComponentRow], parts: Parts) -> Result<Vec<FileKey>, WorkError> {
        let limits = self.agent.throttle.iter().cloned().collect();
        let mut pace = pace(limits, self.attempt.cancel.clone(), self.read.clone());
        let finished = blocking("reading tensors", move || parts.finish(&mut pace)).await?;
        let format = |source| WorkError::Format { path: self.path.display().to_string(), source };
        let mut bad = Vec::new();
        for part in finished.map_err(format)?.ok_or(WorkError::Cancelled)? {
            let row = rows.iter().find(|row| row.id == part.id && row.kind == part.kind);
            let registered = row.and_then(|row| row.digest.as_deref());
            if let Some(finding) = registered.and_then(|registered| other_digest(&part.kind, registered, &part.digest))
            {
                self.findings.push(finding);
                bad.extend(part.files.iter().copied());
            }
            self.reads.components.push(judge::of_part(&part));
        }
        Ok(bad)
    }
}

fn shown(file: &FileIdentity) -> String {
    if file.rel_path.is_empty() { "the file".to_owned() } else { format!("`{}`", file.rel_path) }
}

/// The same inode, size and time with other bytes.
fn difference(file: &FileIdentity, recorded: &FileHashRow, now: &FileHashRow) -> Option<Finding> {
    (recorded != now).then(|| {
        let message = format!("{} has other bytes than when it was hashed, at the same size and time", shown(file));
        Finding::new(Severity::Error, "hash_mismatch", message).but(&recorded.sha256, &now.sha256)
    })
}

/// Other tensors than a load found before.
fn other_digest(kind: &str, registered: &str, now: &str) -> Option<Finding> {
    (registered != now).then(|| {
        let message = format!("the {kind} has other bytes than are registered: its files are marked and not loaded");
        Finding::new(Severity::Error, "digest_mismatch", message).but(registered, now)
    })
}

/// What the file's own metadata says its payload's SHA-256 is, of a model that is one file.
fn claimed(inspection: &Inspection, files: &[FileIdentity], now: &FileHashRow) -> Option<Finding> {
    let payload = now.payload_sha256.as_deref().filter(|_| files.len() == 1)?;
    let keys = ["modelspec.hash_sha256", "sshs_model_hash"];
    let claim = keys.iter().find_map(|key| inspection.metadata.get(*key)?.as_str());
    let claim =
        claim.map(|claim| claim.trim_start_matches("0x").to_ascii_lowercase()).filter(|claim| claim.len() == 64)?;
    (claim != payload).then(|| {
        let message = "the metadata names another hash of the tensors: they were changed after it was written";
        Finding::new(Severity::Warning, "metadata_hash_mismatch", message).but(claim, payload)
    })
}

fn report(
    agent: &Agent,
    args: &ValidateArgs,
    mut findings: Vec<Finding>,
    (tensors, bytes): (u64, u64),
    files: &[FileIdentity],
    started: Instant,
) -> Result<NewValidation, WorkError> {
    let verdict = validate::verdict(&findings).as_str();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts = [Severity::Error, Severity::Warning, Severity::Info].map(count).map(signed);
    let omitted = signed(findings.len().saturating_sub(FINDINGS));
    findings.truncate(FINDINGS);
    Ok(NewValidation {
        id: ValidationId::generate(),
        model: args.model,
        host: agent.host.clone(),
        level: args.level.as_str(),
        verdict,
        counts,
        findings: encoded(&findings)?,
        omitted,
        tensors: i64::try_from(tensors).unwrap_or(i64::MAX),
        bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        seconds: started.elapsed().as_secs_f64(),
        files: encoded(&files)?,
        statistics: None,
    })
}

fn encoded(value: &impl serde::Serialize) -> Result<serde_json::Value, WorkError> {
    serde_json::to_value(value).map_err(|error| WorkError::Db(DbError::BadRow(error.to_string())))
}

/// What a report keeps of them.
fn kept(all: Vec<validate::TensorStatistics>) -> Vec<TensorStatistics> {
    let mut names = 0_usize;
    let fits = |of: &validate::TensorStatistics| {
        names = names.saturating_add(of.tensor.len());
        names <= NAMES_BYTES
    };
    all.into_iter().take(STATISTICS).take_while(fits).map(stored).collect()
}

fn stored(of: validate::TensorStatistics) -> TensorStatistics {
    let moment = |which: fn(&validate::Moments) -> f64| of.moments.as_ref().map(which);
    TensorStatistics {
        component: of.component.map(|kind| kind.as_str().to_owned()),
        dtype: of.dtype.as_str().to_owned(),
        elements: of.elements,
        nan: of.nan,
        infinite: of.infinite,
        zero: of.zero,
        subnormal: of.subnormal,
        mean: moment(|moments| moments.mean),
        std: moment(|moments| moments.std),
        min: moment(|moments| moments.min),
        max: moment(|moments| moments.max),
        tensor: of.tensor,
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
