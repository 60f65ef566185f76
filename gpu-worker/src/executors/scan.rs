//! `scan`: what the roots of this host hold, header reads only.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use model_formats::Candidate;
use shared::{db::models::FoundModel, job::ScanArgs};
use tokio_util::sync::CancellationToken;

use super::{Done, load::watched, model::blocking};
use crate::{catalogue, commit::Effects, config::Root, context::Agent, error::WorkError, running::Attempt};

/// Threads that read headers: they wait for the disk more than they compute.
const THREADS: usize = 4;

pub(super) async fn run(agent: &Arc<Agent>, args: ScanArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    let roots = chosen(agent, args.root)?;
    let mut scanned = Vec::new();
    let mut models = 0;
    for root in roots {
        attempt.progress.enter("scanning", 0);
        attempt.progress.detail(&root.name);
        let found = scan_root(root.clone(), attempt).await?;
        models += found.as_ref().map_or(0, Vec::len);
        scanned.push((root.name, found));
    }
    let missing: Vec<&String> = scanned.iter().filter_map(|(_, found)| found.as_ref().err()).collect();
    if !missing.is_empty() && missing.len() == scanned.len() {
        let text = missing.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join("; ");
        record_missing(agent, &scanned).await?;
        return Err(WorkError::RootsMissing(text));
    }
    let result = serde_json::json!({
        "host": agent.host, "models": models, "seconds": started.elapsed().as_secs_f64(),
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
async fn record_missing(agent: &Agent, scanned: &[(String, Result<Vec<FoundModel>, String>)]) -> Result<(), WorkError> {
    for (root, found) in scanned {
        if let Err(reason) = found {
            shared::db::models::root_missing(&agent.pool, &agent.host, root, reason).await?;
        }
    }
    Ok(())
}

async fn scan_root(root: Root, attempt: &Attempt) -> Result<Result<Vec<FoundModel>, String>, WorkError> {
    let discovery = {
        let path = root.path.clone();
        blocking("listing a root", move || model_formats::discover(&path)).await?
    };
    let discovery = match discovery {
        Ok(discovery) => discovery,
        Err(error) => return Ok(Err(shared::error::chain(&error))),
    };
    for (path, reason) in &discovery.skipped {
        tracing::debug!(root = root.name, path, reason, "skipped");
    }
    let candidates = Arc::new(discovery.candidates);
    attempt.progress.enter("scanning", candidates.len() as u64);
    attempt.progress.detail(&root.name);
    let next = Arc::new(AtomicUsize::new(0));
    let work = {
        let (candidates, next, cancel) = (candidates.clone(), next.clone(), attempt.cancel.clone());
        blocking("reading headers", move || inspect_all(&candidates, &next, &cancel))
    };
    let mut found = watched(attempt, work, || next.load(Ordering::Relaxed).min(candidates.len()) as u64).await?;
    if attempt.cancel.is_cancelled() {
        return Err(WorkError::Cancelled);
    }
    found.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    Ok(Ok(found))
}

fn inspect_all(candidates: &[Candidate], next: &AtomicUsize, cancel: &CancellationToken) -> Vec<FoundModel> {
    let worker = || {
        let mut found = Vec::new();
        while !cancel.is_cancelled() {
            let Some(candidate) = candidates.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            found.push(inspect(candidate));
        }
        found
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn inspect(candidate: &Candidate) -> FoundModel {
    let path: &Path = &candidate.path;
    match model_formats::inspect(path) {
        Ok(inspection) => catalogue::found(&candidate.rel_path, &inspection),
        Err(error) => catalogue::unreadable(&candidate.rel_path, path, shared::error::chain(&error)),
    }
}
