//! `cache_remove`: one component, one model or everything out of the host's RAM.

use std::sync::Arc;

use residency::{FreedBytes, Reason, ResidencyError, Why};
use shared::{db::models, ids::ComponentId, job::CacheRemoveArgs};

use super::Done;
use crate::{commit::Effects, context::Agent, error::WorkError, running::Attempt};

pub(super) async fn run(agent: &Arc<Agent>, args: CacheRemoveArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("freeing", 0);
    let result = match (args.component, args.model) {
        (Some(component), _) => evict((agent, attempt), &[component], false).await?,
        (None, Some(model)) => {
            let rows = models::components_of(&agent.pool, &[model]).await?;
            evict((agent, attempt), &rows.iter().map(|row| row.id).collect::<Vec<_>>(), false).await?
        }
        (None, None) => clear(agent, attempt).await?,
    };
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}

/// Takes components out of RAM; those that are not there are fine, those in use (or protected, unless it is forced) make it
/// fail after the others went.
pub(super) async fn evict(
    (agent, attempt): (&Agent, &Attempt),
    components: &[ComponentId],
    force: bool,
) -> Result<serde_json::Value, WorkError> {
    let (mut evicted, mut freed, mut in_use) = (Vec::new(), 0, Vec::new());
    let why = attempt.why(Reason::Requested);
    for held in components.iter().flat_map(|component| agent.aliases.held(*component)) {
        match out(agent, &held.to_string(), &why, force).await {
            Ok(bytes) => {
                freed += bytes.0;
                evicted.push(agent.aliases.now(held));
            }
            Err(ResidencyError::NotResident { .. }) => {}
            Err(
                refused @ (ResidencyError::Leased { .. }
                | ResidencyError::Protected { .. }
                | ResidencyError::Loading { .. }),
            ) => {
                in_use.push(refused);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match in_use.first() {
        Some(first) => Err(WorkError::InUse { count: in_use.len(), first: first.to_string() }),
        None => Ok(serde_json::json!({ "host": agent.host, "freed_bytes": freed, "evicted": evicted })),
    }
}

async fn out(agent: &Agent, key: &str, why: &Why, force: bool) -> Result<FreedBytes, ResidencyError> {
    let first = agent.tier.evict_for(key, why.clone()).await;
    if !force || !matches!(first, Err(ResidencyError::Protected { .. })) {
        return first;
    }
    agent.tier.protect(key, false)?;
    let forced = agent.tier.evict_for(key, why.clone()).await;
    if forced.is_err() {
        // it was taken into use meanwhile and stays as it was; one that is gone needs no protection
        let _ = agent.tier.protect(key, true);
    }
    forced
}

/// Clearing is best effort by its meaning: what is in use stays and is named.
async fn clear(agent: &Agent, attempt: &Attempt) -> Result<serde_json::Value, WorkError> {
    let report = agent.tier.clear_for(attempt.why(Reason::Cleared)).await?;
    let evicted: Vec<&str> = report.evicted.iter().map(|key| &**key).collect();
    let kept: Vec<serde_json::Value> = report
        .kept
        .iter()
        .map(|(key, why)| serde_json::json!({ "component": &**key, "reason": why.to_string() }))
        .collect();
    Ok(serde_json::json!({ "host": agent.host, "freed_bytes": report.freed.0, "evicted": evicted, "kept": kept }))
}
