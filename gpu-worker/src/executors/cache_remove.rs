//! `cache_remove`: one component, one model or everything out of the host's RAM.

use std::sync::Arc;

use residency::{FreedBytes, Key, Reason, ResidencyError, Why};
use shared::{db::models, ids::ComponentId, job::CacheRemoveArgs};

use super::Done;
use crate::{
    commit::Effects,
    context::Agent,
    error::{Gone, WorkError},
    running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, args: CacheRemoveArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("freeing", 0);
    let manner = Manner { cancel_loads: args.cancel_loads, ..Manner::default() };
    let result = match (args.component, args.model) {
        (Some(component), _) => evict((agent, attempt), &[component], manner).await?,
        (None, Some(model)) => {
            let rows = models::components_of(&agent.pool, &[model]).await?;
            evict((agent, attempt), &rows.iter().map(|row| row.id).collect::<Vec<_>>(), manner).await?
        }
        (None, None) => clear(agent, attempt).await?,
    };
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}

/// How far taking out of RAM goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// Also what is protected.
    pub(super) force: bool,
    /// Also what is being loaded: the load ends for every job that waits for it.
    pub(super) cancel_loads: bool,
}

/// Takes components out of RAM; those that are not there are fine, those in use (or protected, unless it is forced) make it
/// fail after the others went.
pub(super) async fn evict(
    (agent, attempt): (&Agent, &Attempt),
    components: &[ComponentId],
    Manner { force, cancel_loads }: Manner,
) -> Result<serde_json::Value, WorkError> {
    let why = attempt.why(Reason::Requested);
    let held: Vec<ComponentId> = components.iter().flat_map(|component| agent.aliases.held(*component)).collect();
    // all of them before anything leaves: who asks for one anew has a load of their own, which goes on
    let ended = if cancel_loads { end_loads(agent, &held).await? } else { Vec::new() };
    let (mut evicted, mut freed, mut in_use) = (Vec::new(), 0, Vec::new());
    for held in held {
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
        Some(first) => {
            let gone = Gone { place: "RAM".to_owned(), components: evicted, freed_bytes: freed };
            let gone = (!gone.components.is_empty()).then_some(gone).into_iter().collect();
            let first = by_present_id(agent, first).to_string();
            Err(WorkError::InUse { count: in_use.len(), first, gone, ended_loads: ended })
        }
        None => Ok(serde_json::json!({
            "host": agent.host, "freed_bytes": freed, "evicted": evicted, "cancelled_loads": ended,
        })),
    }
}

/// Ends the loads of these that run, for every job that waits for them; which they were.
async fn end_loads(agent: &Agent, held: &[ComponentId]) -> Result<Vec<ComponentId>, WorkError> {
    let mut ended = Vec::new();
    for held in held {
        match agent.tier.end_load(&held.to_string()).await {
            Ok(true) => ended.push(agent.aliases.now(*held)),
            Ok(false) | Err(ResidencyError::NotResident { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ended)
}

/// A refusal of the tier, which names what it holds by the id that it came under, by the id that the catalogue has now.
fn by_present_id(agent: &Agent, refused: &ResidencyError) -> ResidencyError {
    let now = |key: &Key| key.parse().map_or_else(|_| key.clone(), |held| agent.aliases.now(held).to_string().into());
    match refused {
        ResidencyError::Leased { key, by } => ResidencyError::Leased { key: now(key), by: *by },
        ResidencyError::Protected { key } => ResidencyError::Protected { key: now(key) },
        ResidencyError::Loading { key } => ResidencyError::Loading { key: now(key) },
        other => other.clone(),
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

/// Clearing is best effort by its meaning: what is in use stays and is named. Both by the ids that the catalogue has now.
async fn clear(agent: &Agent, attempt: &Attempt) -> Result<serde_json::Value, WorkError> {
    let report = agent.tier.clear_for(attempt.why(Reason::Cleared)).await?;
    let now = |key: &Key| key.parse().map_or_else(|_| key.to_string(), |held| agent.aliases.now(held).to_string());
    let evicted: Vec<String> = report.evicted.iter().map(now).collect();
    let kept: Vec<serde_json::Value> = report
        .kept
        .iter()
        .map(|(key, why)| serde_json::json!({ "component": now(key), "reason": by_present_id(agent, why).to_string() }))
        .collect();
    Ok(serde_json::json!({ "host": agent.host, "freed_bytes": report.freed.0, "evicted": evicted, "kept": kept }))
}
