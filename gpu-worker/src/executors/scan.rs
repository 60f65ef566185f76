//! `scan`: what the roots of this host hold, header reads only.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use model_formats::{
    Candidate, CandidateKind, cached_repository,
    metadata::{self, RULES_VERSION},
};
use shared::{
    db::models::{self, FileIdentity, FoundModel, KnownModel, ReadAs},
    ids::ModelId,
    job::ScanArgs,
};
use tokio_util::sync::CancellationToken;

use super::{Done, load::watched, model::blocking};
use crate::{
    catalogue,
    commit::{Effects, ScannedRoot},
    config::Root,
    context::Agent,
    error::WorkError,
    running::Attempt,
};

/// Threads that read headers: they wait for the disk more than they compute.
const THREADS: usize = 4;

pub(super) async fn run(agent: &Arc<Agent>, args: ScanArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    let roots = chosen(agent, args.root)?;
    let mut scanned = Vec::new();
    let (mut models, mut read) = (0, 0);
    for root in roots {
        attempt.progress.enter("scanning", 0);
        attempt.progress.detail(&root.name);
        let found = scan_root(agent, root.clone(), args.model, attempt).await?;
        models += found.as_ref().map_or(0, |root| root.models.len() + root.unchanged.len());
        read += found.as_ref().map_or(0, |root| root.models.len());
        scanned.push((root.name, found));
    }
    let missing: Vec<&String> = scanned.iter().filter_map(|(_, found)| found.as_ref().err()).collect();
    if !missing.is_empty() && missing.len() == scanned.len() {
        let text = missing.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join("; ");
        record_missing(agent, &scanned).await?;
        return Err(WorkError::RootsMissing(text));
    }
    let result = serde_json::json!({
        "host": agent.host, "models": models, "read": read, "seconds": started.elapsed().as_secs_f64(),
    });
    Ok(Done { result, effects: Effects::Scanned(scanned) })
}

fn chosen(agent: &Agent, name: Option<String>) -> Result<Vec<Root>, WorkError> {
    let Some(name) = name else { return Ok(in_order(agent.roots.clone())) };
    let root = agent.roots.iter().find(|root| root.name == name).cloned();
    root.map(|root| vec![root]).ok_or(WorkError::NoRoot { host: agent.host.clone(), root: name })
}

/// One order on every host: the commit locks one root after the other.
fn in_order(mut roots: Vec<Root>) -> Vec<Root> {
    roots.sort_by(|a, b| a.name.cmp(&b.name));
    roots
}

/// A failed job commits no effects, but that the roots are gone must be seen in the catalogue.
async fn record_missing(agent: &Agent, scanned: &[(String, Result<ScannedRoot, String>)]) -> Result<(), WorkError> {
    for (root, found) in scanned {
        if let Err(reason) = found {
            models::root_missing(&agent.pool, &agent.host, root, reason).await?;
        }
    }
    Ok(())
}

async fn scan_root(
    agent: &Agent,
    root: Root,
    again: Option<ModelId>,
    attempt: &Attempt,
) -> Result<Result<ScannedRoot, String>, WorkError> {
    let discovery = {
        let (path, cancel) = (root.path.clone(), attempt.cancel.clone());
        let others: Vec<PathBuf> = agent.roots.iter().map(|other| other.path.clone()).collect();
        let walk = move || model_formats::discover_within(&path, &others, &|| cancel.is_cancelled());
        blocking("listing a root", walk).await?
    };
    if attempt.cancel.is_cancelled() {
        return Err(WorkError::Cancelled);
    }
    let discovery = match discovery {
        Ok(discovery) => discovery,
        Err(error) => return Ok(Err(shared::error::chain(&error))),
    };
    for (path, reason) in &discovery.skipped {
        tracing::debug!(root = root.name, path, reason, "skipped");
    }
    let known = models::known(&agent.pool, &agent.host, &root.name, again).await?;
    let candidates = Arc::new(discovery.candidates);
    attempt.progress.enter("scanning", candidates.len() as u64);
    attempt.progress.detail(&root.name);
    let next = Arc::new(AtomicUsize::new(0));
    let work = {
        let (candidates, next, cancel) = (candidates.clone(), next.clone(), attempt.cancel.clone());
        blocking("reading headers", move || inspect_all(&candidates, &known, &next, &cancel))
    };
    let seen = watched(attempt, work, || next.load(Ordering::Relaxed).min(candidates.len()) as u64).await?;
    if attempt.cancel.is_cancelled() {
        return Err(WorkError::Cancelled);
    }
    Ok(Ok(in_one(seen)))
}

/// A model that was read, or the path of one that is as the catalogue knows it.
enum Seen {
    Read(Box<FoundModel>),
    Unchanged(String),
}

fn in_one(seen: Vec<Seen>) -> ScannedRoot {
    let mut root = ScannedRoot::default();
    for one in seen {
        match one {
            Seen::Read(model) => root.models.push(*model),
            Seen::Unchanged(rel_path) => root.unchanged.push(rel_path),
        }
    }
    root.models.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    root
}

fn inspect_all(
    candidates: &[Candidate],
    known: &HashMap<String, KnownModel>,
    next: &AtomicUsize,
    cancel: &CancellationToken,
) -> Vec<Seen> {
    let worker = || {
        let mut seen = Vec::new();
        while !cancel.is_cancelled() {
            let Some(candidate) = candidates.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let before = known.get(&candidate.rel_path);
            if before.is_some_and(|before| is_unchanged(candidate, before)) {
                seen.push(Seen::Unchanged(candidate.rel_path.clone()));
            } else {
                let said = before.map(|before| before.said.clone()).unwrap_or_default();
                seen.push(Seen::Read(Box::new(inspect(candidate, said))));
            }
        }
        seen
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Whether the files and side-cars are the ones that today's rules have read already. Folders are read again:
/// what was added to one since is no file that the catalogue knows.
fn is_unchanged(candidate: &Candidate, before: &KnownModel) -> bool {
    candidate.kind == CandidateKind::SingleFile
        && before.rules == Some(i64::from(RULES_VERSION))
        && before.said == before.read_as
        && !before.files.is_empty()
        && before.files.iter().all(|file| is_still(&beside(&candidate.path, &file.rel_path), file))
        && serde_json::to_value(metadata::sidecar_facts(&candidate.sidecars)).is_ok_and(|now| now == before.sidecars)
}

/// Whether the file at `path` is the one that a scan saw, without opening it.
fn is_still(path: &Path, seen: &FileIdentity) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| {
        let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        let now = (meta.len(), mtime_ns, meta.ino(), meta.dev());
        meta.is_file() && now == (seen.size_bytes, seen.mtime_ns, seen.inode, seen.dev)
    })
}

/// A file of a single-file model: itself, or a shard beside its index.
fn beside(path: &Path, rel_path: &str) -> PathBuf {
    if rel_path.is_empty() { path.to_owned() } else { path.with_file_name(rel_path) }
}

fn inspect(candidate: &Candidate, said: ReadAs) -> FoundModel {
    let path: &Path = &candidate.path;
    match model_formats::inspect_as(path, catalogue::correction(&said)) {
        Ok(mut inspection) => {
            metadata::attach(&mut inspection, &candidate.sidecars);
            if let Some(repository) = cached_repository(path) {
                inspection.name = repository;
            }
            catalogue::found(&candidate.rel_path, &inspection, said)
        }
        Err(error) => catalogue::unreadable(&candidate.rel_path, path, shared::error::chain(&error), said),
    }
}
