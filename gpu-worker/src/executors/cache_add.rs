//! `cache_add`: disk → RAM.

use std::{sync::Arc, time::Instant};

use shared::job::{CacheAddArgs, Keep};

use super::{
    Done, keep,
    model::{self, Landed},
};
use crate::{commit::Effects, context::Agent, error::WorkError, running::Attempt};

pub(super) async fn run(agent: &Arc<Agent>, args: CacheAddArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    let keep = Keep { keep_alive: args.keep_alive, protect: args.protect };
    attempt.progress.enter("locating", 0);
    let wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    let inspection = model::inspect(agent, attempt, &wanted).await?;
    attempt.progress.enter("reading", wanted.bytes());
    let landed = Arc::new(Landed::default());
    let (mut components, mut digests) = (Vec::new(), Vec::new());
    let mut done = 0;
    for row in &wanted.components {
        attempt.progress.detail(&row.kind);
        let request = model::request(agent, attempt, row, &inspection, &landed)?;
        let base = done;
        let before = landed.bytes();
        let acquired =
            super::load::watched(attempt, model::acquire(agent, attempt, request), || base + landed.bytes() - before);
        let (lease, cached) = acquired.await?;
        keep::apply(agent, &lease, keep)?;
        done += lease.tensor_bytes();
        attempt.progress.set(done);
        let digest = lease.digest().to_string();
        components.push(serde_json::json!({
            "id": row.id, "kind": row.kind, "bytes": lease.bytes(), "digest": digest, "from": if cached { "ram" } else { "disk" },
        }));
        digests.push((row.id, digest));
    }
    let result = serde_json::json!({
        "model": wanted.model.name, "host": agent.host, "bytes": done, "components": components,
        "seconds": started.elapsed().as_secs_f64(),
    });
    Ok(Done { result, effects: Effects::Resident(digests) })
}
