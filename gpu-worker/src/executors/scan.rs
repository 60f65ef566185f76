//! `scan`: what the roots of this host hold, header reads only. Models are listed while others are read; their texts, for searches by
//! words, follow, and what vanished is told at the end, with the job.

use std::{path::PathBuf, sync::Arc, time::Instant};

use model_formats::Candidate;
use shared::{
    db::{jobs::JobLease, models},
    ids::ModelId,
    job::ScanArgs,
};

use super::{Done, load::watched, model::blocking};
use crate::{
    catalogue::{Before, Recorder, ScannedRoot, Seen, make_texts, misses_any, survey, survey_and_record},
    commit::Effects,
    config::Root,
    context::Agent,
    error::WorkError,
    running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, args: ScanArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    let roots = chosen(agent, args.root)?;
    let mut scanned = Vec::new();
    let (mut models, mut read, mut unfinished) = (0, 0, 0);
    for root in roots {
        attempt.progress.enter("scanning", 0);
        attempt.progress.detail(&root.name);
        let found = scan_root(agent, root.clone(), args.model, attempt).await?;
        if let Ok(root) = &found {
            models += root.len();
            read += root.read();
            unfinished += root.unfinished;
        }
        scanned.push((root.name, found));
    }
    let missing: Vec<&String> = scanned.iter().filter_map(|(_, found)| found.as_ref().err()).collect();
    if !missing.is_empty() && missing.len() == scanned.len() {
        let text = missing.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join("; ");
        record_missing(agent, &scanned).await?;
        return Err(WorkError::RootsMissing(text));
    }
    index(agent, attempt).await?;
    attempt.progress.enter("recording", 0);
    let result = serde_json::json!({
        "host": agent.host, "models": models, "read": read, "unfinished": unfinished,
        "seconds": started.elapsed().as_secs_f64(),
    });
    Ok(Done { result, effects: Effects::Scanned { roots: scanned, again: args.model } })
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
    agent.watches.settle(&root.name).await;
    let before = Before { known, writing: agent.watches.being_written(&root.name) };
    let candidates = discovery.candidates;
    let total = candidates.len() as u64;
    attempt.progress.enter("scanning", total);
    attempt.progress.detail(&root.name);
    let seen = Arc::new(Seen::default());
    let looked_at = || {
        attempt.progress.detail(&format!("{}, {} read", root.name, seen.read()));
        seen.looked_at().min(total)
    };
    let scanned = watched(attempt, read(agent, &root, (candidates, before), seen.clone(), attempt), looked_at).await?;
    if attempt.cancel.is_cancelled() {
        return Err(WorkError::Cancelled);
    }
    Ok(Ok(scanned))
}

/// Reads the headers of what is new. Where no path is missing, models are recorded as they come.
async fn read(
    agent: &Agent,
    root: &Root,
    (candidates, before): (Vec<Candidate>, Before),
    seen: Arc<Seen>,
    attempt: &Attempt,
) -> Result<ScannedRoot, WorkError> {
    let (cancel, threads) = (attempt.cancel.clone(), agent.scan_threads);
    let stop = move || cancel.is_cancelled();
    if misses_any(&before, &candidates) {
        let work = move || survey(&candidates, &before, &seen, threads, None, &stop);
        return blocking("reading headers", work).await;
    }
    let lease = JobLease { id: attempt.id, fence: attempt.fence, incarnation: agent.me };
    let (pool, host) = (agent.pool.clone(), agent.host.clone());
    let recorder = Recorder { pool, host, root: root.name.clone(), lease: Some(lease) };
    survey_and_record(&recorder, candidates, before, seen, threads, stop).await
}

/// Makes the texts of what was listed without them.
async fn index(agent: &Agent, attempt: &Attempt) -> Result<(), WorkError> {
    attempt.progress.enter("indexing", models::due_texts(&agent.pool).await?);
    make_texts(&agent.pool, || attempt.cancel.is_cancelled(), |made| attempt.progress.set(made)).await?;
    if attempt.cancel.is_cancelled() { Err(WorkError::Cancelled) } else { Ok(()) }
}
