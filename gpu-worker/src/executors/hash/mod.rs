//! `hash`: the hashes of models that have none yet and the digests of their components, in the background and in slices, so
//! that other work of the host comes in between and what is done is kept.

mod parts;

use std::{
    collections::BTreeSet,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model_formats::{
    FileFacts,
    hash::{FileHashes, Hashed as HashedFile, content_digest, hash_file},
};
pub use parts::HashedPart;
pub(super) use parts::Parts;
use shared::{
    db::{
        DbError,
        hashes::{self, FileHashRow, ModelHashes, Unhashed},
        models::{self, FileIdentity, FileKey},
    },
    ids::ModelId,
    job::HashArgs,
};
use tokio_util::sync::CancellationToken;

use super::{
    Done,
    load::watched,
    model::{blocking, unsigned},
};
use crate::{
    catalogue::CANONICAL_FORM,
    commit::{Effects, Hashed, HashedModel},
    context::Agent,
    error::WorkError,
    judge,
    running::Attempt,
    throttle::Throttle,
};

/// After so long no further model is begun; a following job goes on.
const SLICE: Duration = Duration::from_secs(30);
/// Most models that one job looks up.
const BATCH: i64 = 20_000;
/// Most failures that a result lists.
const FAILURES: usize = 50;

pub(super) async fn run(agent: &Arc<Agent>, args: HashArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("locating", 0);
    let models =
        hashes::unhashed(&agent.pool, &agent.host, args.model, args.root.as_deref(), CANONICAL_FORM, BATCH).await?;
    attempt.progress.enter("hashing", models.iter().map(|model| unsigned(model.size_bytes)).sum());
    let hashed = Hashed { alone: args.model.is_some(), ..Hashed::default() };
    let limits = agent.throttle.iter().chain(&agent.hash_throttle).cloned().collect();
    let mut slice = Slice { agent, attempt, read: Arc::default(), limits, hashed, failed: Vec::new() };
    let (mut passed, mut left) = (0, models.len());
    for model in &models {
        if started.elapsed() >= SLICE {
            break;
        }
        left -= 1;
        attempt.progress.detail(&model.name);
        slice.model(model, passed).await?;
        passed += unsigned(model.size_bytes);
        attempt.progress.set(passed);
    }
    let goes_on = left > 0 && !slice.hashed.models.is_empty();
    slice.hashed.looked_at = (args == HashArgs::default()).then(|| models.iter().map(|model| model.id).collect());
    slice.failed.extend(of_other_forms(agent, &args).await?);
    slice.hashed.again = goes_on.then_some(args);
    slice.failed.truncate(FAILURES);
    let result = serde_json::json!({
        "host": agent.host, "models": slice.hashed.models.len(), "left": left,
        "bytes": slice.read.load(Ordering::Relaxed), "failed": slice.failed, "seconds": started.elapsed().as_secs_f64(),
    });
    Ok(Done { result, effects: Effects::Hashed(slice.hashed) })
}

/// Hashes those of these models that nobody hashed yet, for work that writes their digests down.
///
/// # Errors
/// What reading them fails with; [`WorkError::OtherBytes`] for a part that is not what is registered.
pub(super) async fn missing(
    agent: &Arc<Agent>,
    attempt: &Attempt,
    wanted: BTreeSet<ModelId>,
) -> Result<Hashed, WorkError> {
    let mut unhashed = Vec::new();
    for model in wanted {
        unhashed.extend(hashes::unhashed(&agent.pool, &agent.host, Some(model), None, CANONICAL_FORM, 1).await?);
    }
    let hashed = Hashed::default();
    if unhashed.is_empty() {
        return Ok(hashed);
    }
    attempt.progress.enter("hashing", unhashed.iter().map(|model| unsigned(model.size_bytes)).sum());
    let limits = agent.throttle.iter().cloned().collect();
    let mut slice = Slice { agent, attempt, read: Arc::default(), limits, hashed, failed: Vec::new() };
    let mut passed = 0;
    for model in &unhashed {
        attempt.progress.detail(&model.name);
        let done = slice.whole(model, passed).await?;
        let rows = models::components_of(&agent.pool, &[model.id]).await?;
        for part in done.iter().flat_map(|done| &done.parts) {
            let registered = rows.iter().find(|row| row.id == part.id).and_then(|row| row.digest.as_deref());
            if let Some(registered) = registered.filter(|registered| *registered != part.digest) {
                let path = format!("`{}`", Path::new(&model.root_path).join(&model.rel_path).display());
                let (host, expected) = (agent.host.clone(), registered.to_owned());
                let read = Box::new(judge::of_part(part));
                return Err(WorkError::OtherBytes { paths: path, host, expected, read });
            }
        }
        slice.hashed.models.extend(done);
        passed += unsigned(model.size_bytes);
        attempt.progress.set(passed);
    }
    Ok(slice.hashed)
}

/// Models that this build cannot read the tensors of, or not yet, and why.
async fn of_other_forms(agent: &Agent, args: &HashArgs) -> Result<Vec<serde_json::Value>, WorkError> {
    let (model, root, most) = (args.model, args.root.as_deref(), i64::try_from(FAILURES).unwrap_or(i64::MAX));
    let others = hashes::of_other_forms(&agent.pool, &agent.host, model, root, CANONICAL_FORM, most).await?;
    let said = |(model, is_newer): (String, bool)| {
        let reason = if is_newer {
            "a newer version of modelyard has read it: it is hashed here once this host has that version"
        } else {
            "an older version of modelyard has read it: it is hashed after the next scan"
        };
        serde_json::json!({ "model": model, "reason": reason })
    };
    Ok(others.into_iter().map(said).collect())
}

/// What one job does.
struct Slice<'a> {
    agent: &'a Arc<Agent>,
    attempt: &'a Attempt,
    /// Bytes read.
    read: Arc<AtomicU64>,
    /// What reading waits for.
    limits: Vec<Arc<Throttle>>,
    hashed: Hashed,
    failed: Vec<serde_json::Value>,
}

impl Slice<'_> {
    /// Hashes one model. A file that cannot be read or changed meanwhile is noted; it is tried again after the next scan.
    async fn model(&mut self, model: &Unhashed, passed: u64) -> Result<(), WorkError> {
        let reason = match self.whole(model, passed).await {
            Ok(done) => {
                self.hashed.models.extend(done);
                return Ok(());
            }
            Err(error @ (WorkError::Format { .. } | WorkError::Changed { .. })) => {
                self.agent.rescans.note(self.agent, &error).await;
                match &error {
                    WorkError::Format { source, .. } => shared::error::chain(source),
                    changed => changed.to_string(),
                }
            }
            Err(error) => return Err(error),
        };
        tracing::warn!(model = model.name, reason, "not hashed");
        self.failed.push(serde_json::json!({ "model": model.name, "reason": reason }));
        Ok(())
    }

    async fn whole(&mut self, model: &Unhashed, passed: u64) -> Result<Option<HashedModel>, WorkError> {
        let bad_row = |error: serde_json::Error| DbError::BadRow(error.to_string());
        let files: Vec<FileIdentity> = serde_json::from_value(model.files.clone()).map_err(bad_row)?;
        let path = Path::new(&model.root_path).join(&model.rel_path);
        let mut parts = Parts::read(self.agent, model, &path, &files).await?;
        let keys: Vec<FileKey> = files.iter().map(FileKey::from).collect();
        // what is marked as corrupt is read, whatever is known of it
        let marked = models::corrupt_among(&self.agent.pool, &self.agent.host, &keys).await?.is_some();
        if !marked {
            parts.take_over(hashes::twins(&self.agent.pool, &self.agent.host, model.id).await?);
        }
        let before = self.read.load(Ordering::Relaxed);
        let mut hashes = Vec::new();
        for file in files {
            let row = self.file(&path, (&file, marked), &mut parts, (passed, before)).await?;
            hashes.push((file, row));
        }
        let mut pace = pace(self.limits.clone(), self.attempt.cancel.clone(), self.read.clone());
        let finished = blocking("reading tensors", move || parts.finish(&mut pace)).await?;
        let finished = finished.map_err(|source| WorkError::Format { path: path.display().to_string(), source })?;
        let parts = finished.ok_or(WorkError::Cancelled)?;
        let path = path.display().to_string();
        Ok(of_model(model, &hashes).map(|hashes| HashedModel { hashes, path, files: keys, parts }))
    }

    /// The hashes of one file and of the tensors in it; a file whose hashes are known is read for its tensors only, or `again`.
    async fn file(
        &mut self,
        path: &Path,
        (file, again): (&FileIdentity, bool),
        parts: &mut Parts,
        (passed, before): (u64, u64),
    ) -> Result<FileHashRow, WorkError> {
        let facts = facts(path, file);
        let wanted = parts.wanted(&facts.path);
        let known = hashes::of_file(&self.agent.pool, &self.agent.host, file).await?;
        if let Some(known) = known.filter(|_| wanted.is_empty() && !again) {
            return Ok(known);
        }
        let ranges = wanted.iter().map(|(_, range)| range.clone()).collect();
        let work = hash_one(self.attempt, facts, ranges, self.read.clone(), self.limits.clone());
        let read = self.read.clone();
        let done = || passed + read.load(Ordering::Relaxed).saturating_sub(before);
        let (row, ranges) = watched(self.attempt, work, done).await?;
        parts.note(&wanted, ranges);
        self.hashed.files.push((file.clone(), row.clone()));
        Ok(row)
    }
}

fn of_model(model: &Unhashed, hashes: &[(FileIdentity, FileHashRow)]) -> Option<ModelHashes> {
    let names: Vec<_> = hashes.iter().map(|(file, row)| (file.rel_path.as_str(), row.blake3.as_str())).collect();
    let content_digest = content_digest(&names)?;
    let only = match hashes {
        [(_, only)] => Some(only),
        _ => None,
    };
    Some(ModelHashes {
        model: model.id,
        files: model.files.clone(),
        content_digest,
        sha256: only.map(|row| row.sha256.clone()),
        payload_sha256: only.and_then(|row| row.payload_sha256.clone()),
    })
}

/// A file of a model as the catalogue knows it: below a folder, or beside the file that stands for the model.
pub fn facts(model: &Path, file: &FileIdentity) -> FileFacts {
    let path: PathBuf = match file.rel_path.as_str() {
        "" => model.to_owned(),
        below if model.is_dir() => model.join(below),
        beside => model.with_file_name(beside),
    };
    FileFacts {
        path,
        rel_path: file.rel_path.clone(),
        size: file.size_bytes,
        mtime_ns: file.mtime_ns,
        inode: file.inode,
        dev: file.dev,
    }
}

/// Hashes one file and ranges of it on a thread that may block.
pub(super) async fn hash_one(
    attempt: &Attempt,
    file: FileFacts,
    ranges: Vec<Range<u64>>,
    read: Arc<AtomicU64>,
    limits: Vec<Arc<Throttle>>,
) -> Result<(FileHashRow, Vec<Option<[u8; 32]>>), WorkError> {
    let path = file.path.display().to_string();
    let mut pace = pace(limits, attempt.cancel.clone(), read);
    let hashed = blocking("hashing a file", move || hash_file(&file, &ranges, &mut pace)).await?;
    let hashed = hashed.map_err(|source| WorkError::Format { path, source })?;
    let HashedFile { file, ranges } = hashed.ok_or(WorkError::Cancelled)?;
    Ok((row(file), ranges))
}

/// Counts what is read, waits for the limits, stops when the attempt does.
pub(super) fn pace(
    limits: Vec<Arc<Throttle>>,
    cancel: CancellationToken,
    read: Arc<AtomicU64>,
) -> impl FnMut(u64) -> ControlFlow<()> + Send + 'static {
    move |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
        for limit in &limits {
            limit.pay(bytes, || cancel.is_cancelled());
        }
        if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn row(hashes: FileHashes) -> FileHashRow {
    let FileHashes { blake3, sha256, payload_sha256, autov1 } = hashes;
    FileHashRow { blake3, sha256, payload_sha256, autov1 }
}
