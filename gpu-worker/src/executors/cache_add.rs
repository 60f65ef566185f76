//! `cache_add`: disk → RAM.

use std::{sync::Arc, time::Instant};

use futures::future::try_join_all;
use model_formats::Inspection;
use shared::{
    db::models::ComponentRow,
    job::{CacheAddArgs, Keep},
};

use super::{
    Done, keep,
    landed::{self, Landed},
    load::watched,
    model::{self, unsigned},
    turns::Turns,
};
use crate::{commit::Effects, context::Agent, error::WorkError, load_request, running::Attempt};

/// What the job is about.
struct Caching<'a> {
    agent: &'a Agent,
    attempt: &'a Attempt,
    inspection: &'a Inspection,
    keep: Keep,
}

/// A component in RAM.
struct Cached {
    bytes: u64,
    digest: String,
    view: serde_json::Value,
}

pub(super) async fn run(agent: &Arc<Agent>, args: CacheAddArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    let keep = Keep { keep_alive: args.keep_alive, protect: args.protect };
    attempt.progress.enter("locating", 0);
    let wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    let inspection = model::inspect(agent, attempt, &wanted).await?;
    attempt.progress.enter("reading", wanted.bytes());
    let caching = Caching { agent, attempt, inspection: &inspection, keep };
    let all = caching.all(&wanted.components).await?;
    let bytes: u64 = all.iter().map(|cached| cached.bytes).sum();
    attempt.progress.set(bytes);
    let digests = wanted.components.iter().zip(&all).map(|(row, cached)| (row.id, cached.digest.clone())).collect();
    let result = serde_json::json!({
        "model": wanted.model.name, "host": agent.host, "bytes": bytes, "seconds": started.elapsed().as_secs_f64(),
        "components": all.into_iter().map(|cached| cached.view).collect::<Vec<_>>(),
    });
    Ok(Done { result, effects: Effects::Resident(digests) })
}

impl Caching<'_> {
    /// All components, those of one disk one after the other.
    async fn all(&self, rows: &[ComponentRow]) -> Result<Vec<Cached>, WorkError> {
        let landed: Vec<Landed> = rows.iter().map(|row| Landed::new(unsigned(row.bytes))).collect();
        let disks = rows.iter().flat_map(|row| load_request::disks(row, self.inspection));
        let turns = Turns::new(disks, &self.attempt.progress);
        let each = rows.iter().zip(&landed).map(|(row, landed)| self.one(row, landed, &turns));
        watched(self.attempt, try_join_all(each), || {
            self.attempt.progress.phase(landed::phase(&landed).unwrap_or("reading"));
            landed::bytes(&landed)
        })
        .await
    }

    async fn one(&self, row: &ComponentRow, landed: &Landed, turns: &Turns<'_>) -> Result<Cached, WorkError> {
        let _turn = turns.to_read(&load_request::disks(row, self.inspection)).await;
        if self.attempt.cancel.is_cancelled() {
            return Err(WorkError::Cancelled);
        }
        let request = model::request(self.agent, self.attempt, row, self.inspection)?;
        let (lease, cached) =
            turns.with_room(&row.kind, || model::acquire(self.agent, self.attempt, request.clone(), landed)).await?;
        keep::apply(self.agent, &lease, self.keep)?;
        let (bytes, digest) = (lease.tensor_bytes(), lease.digest().to_string());
        let view = serde_json::json!({
            "id": row.id, "kind": row.kind, "bytes": lease.bytes(), "digest": digest,
            "from": if cached { "ram" } else { "disk" },
        });
        Ok(Cached { bytes, digest, view })
    }
}
