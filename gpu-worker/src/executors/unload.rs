//! `unload`: a model off a device; success means that the bytes are back. What other models that were loaded there need
//! stays, unless it is named or the unload is forced.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use residency::Reason;
use shared::{
    db::models::{self, ComponentRow},
    ids::ComponentId,
    job::UnloadArgs,
};

use super::{
    Done,
    cache_remove::{self, Manner},
    load,
    model::{self, Wanted},
};
use crate::{
    commit::Effects,
    context::{Agent, Device},
    device_tier::evict::{self, Refused},
    error::{Gone, WorkError},
    runner::RunnerError,
    running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, args: UnloadArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("freeing", 0);
    let wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    let device = load::device_of(agent, attempt)?;
    let anyway = args.force || args.components.is_some();
    let needed = if anyway { BTreeMap::new() } else { needed_by_others(agent, device, &wanted).await? };
    let before = device.memory();
    must_not_stay(agent, device, wanted.components.iter().filter(|row| !needed.contains_key(&row.id)), args.force)?;
    let (mut unloaded, mut stays, mut freed_bytes, mut left_behind) = (Vec::new(), Vec::new(), 0, None);
    let mut off = Vec::new();
    for row in &wanted.components {
        if attempt.cancel.is_cancelled() {
            return Err(WorkError::Cancelled);
        }
        attempt.progress.detail(&row.kind);
        if let Some(others) = needed.get(&row.id) {
            release(agent, device, &wanted, row);
            stays.push(serde_json::json!({ "id": row.id, "kind": row.kind, "needed_by": others }));
            continue;
        }
        let bytes = match take_off((agent, attempt), device, &wanted, row, args.force).await {
            Err(WorkError::Runner(error @ RunnerError::NotFreed { .. })) => {
                left_behind = Some(error);
                continue;
            }
            taken => taken?,
        };
        if bytes > 0 {
            freed_bytes += bytes;
            off.push(row.id);
            unloaded.push(serde_json::json!({ "id": row.id, "kind": row.kind, "bytes": bytes }));
        }
    }
    let mut result = serde_json::json!({
        "model": wanted.model.name, "device": device.id, "freed_bytes": freed_bytes, "components": unloaded,
        "stays": stays, "memory": { "before": before, "after": device.memory() },
    });
    if args.from_ram {
        let gone = wanted.components.iter().filter(|row| !needed.contains_key(&row.id));
        let ids: Vec<_> = gone.map(|row| row.id).collect();
        let off = Gone { place: format!("`{}`", device.id), components: off, freed_bytes };
        let evicted =
            cache_remove::evict((agent, attempt), &ids, Manner { force: args.force, ..Manner::default() }).await;
        result["ram"] = evicted.map_err(|error| told_with(off, error))?;
    }
    if let Some(error) = left_behind {
        return Err(error.into());
    }
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}

/// What went off the device, with what went from RAM where something there has to stay.
fn told_with(off: Gone, error: WorkError) -> WorkError {
    match error {
        WorkError::InUse { count, first, gone, ended_loads } => {
            let off = (!off.components.is_empty()).then_some(off);
            WorkError::InUse { count, first, gone: off.into_iter().chain(gone).collect(), ended_loads }
        }
        other => other,
    }
}

/// The components that other models loaded on the device need, with the names of those models. A model that left the
/// catalogue, or whose files changed so that it has other components now, needs nothing any more.
async fn needed_by_others(
    agent: &Agent,
    device: &Device,
    wanted: &Wanted,
) -> Result<BTreeMap<ComponentId, BTreeSet<String>>, WorkError> {
    let ids: Vec<ComponentId> = wanted.components.iter().map(|row| row.id).collect();
    let owners = models::owners_of(&agent.pool, &ids).await?;
    let mut needed: BTreeMap<ComponentId, BTreeSet<String>> = BTreeMap::new();
    for copy in device.resident() {
        let (component, needing) = (agent.aliases.now(copy.component), device.tier.noted(&copy).models);
        let others = owners.iter().filter(|owner| {
            owner.id == component && owner.model_id != wanted.model.id && needing.contains(&owner.model_id)
        });
        for other in others {
            needed.entry(component).or_default().insert(other.model_name.clone());
        }
    }
    Ok(needed)
}

/// Refuses before anything goes: half a model on the device helps nobody.
fn must_not_stay<'r>(
    agent: &Agent,
    device: &Device,
    going: impl Iterator<Item = &'r ComponentRow> + Clone,
    force: bool,
) -> Result<(), WorkError> {
    for copy in device.resident() {
        let (component, noted) = (agent.aliases.now(copy.component), device.tier.noted(&copy));
        let variants = device.variants.among(std::slice::from_ref(&copy));
        let of = variants.first().map_or(component, |(variant, _)| variant.base);
        if going.clone().any(|row| row.id == of) {
            evict::may_go(device, &copy, &noted, force)?;
        }
    }
    Ok(())
}

fn release(agent: &Agent, device: &Device, wanted: &Wanted, row: &ComponentRow) {
    for held in agent.aliases.held(row.id) {
        device.tier.needs_no_more(wanted.model.id, held);
    }
}

/// Frees every copy of a component; unloading what is not there has the effect that was asked for.
async fn take_off(
    (agent, attempt): (&Agent, &Attempt),
    device: &Device,
    wanted: &Wanted,
    row: &ComponentRow,
    force: bool,
) -> Result<u64, WorkError> {
    let (mut freed_bytes, mut left_behind) = (0, None);
    let mut gone = agent.aliases.held(row.id);
    // what lies over it, or was made of it, is of no use without it
    let variants = device.variants.among(&device.resident());
    gone.extend(variants.into_iter().filter(|(variant, _)| variant.base == row.id).map(|(variant, _)| variant.id));
    for component in gone {
        match evict::take_whole(agent, device, component, attempt.why(Reason::Requested), force).await {
            Ok(bytes) => freed_bytes += bytes,
            // it is gone all the same, and the others are to go with it
            Err(Refused::Runner(error @ RunnerError::NotFreed { .. })) => left_behind = Some(error),
            Err(stays) => return Err(stays.into()),
        }
    }
    release(agent, device, wanted, row);
    left_behind.map_or(Ok(freed_bytes), |error| Err(error.into()))
}
