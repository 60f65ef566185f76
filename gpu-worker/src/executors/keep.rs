//! `cache_keep`, and what loads say about keeping: protection and keep-alive of components in the host's RAM and on its
//! devices.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use residency::{KeepAlive, Lease, ResidencyError};
use shared::{
    db::models,
    ids::ComponentId,
    job::{self, CacheKeepArgs, Keep},
};

use super::Done;
use crate::{
    commit::Effects,
    context::{Agent, Device},
    error::WorkError,
    running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, args: CacheKeepArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("keeping", 0);
    let meant: Vec<ComponentId> = match (args.component, args.model) {
        (Some(component), _) => vec![component],
        (None, Some(model)) => {
            let rows = models::components_of(&agent.pool, &[model]).await?;
            rows.iter().map(|row| row.id).collect()
        }
        (None, None) => Vec::new(),
    };
    if let Some(id) = &args.device {
        let device = agent.devices.get(id).ok_or_else(|| WorkError::NoDevice(id.clone()))?;
        return Ok(on_device(agent, device, &meant, &args));
    }
    let mut kept = BTreeSet::new();
    for held in meant.iter().flat_map(|component| agent.aliases.held(*component)) {
        match say(agent, &held.to_string(), args.protect, args.keep_alive) {
            Ok(()) => drop(kept.insert(agent.aliases.now(held))),
            Err(ResidencyError::NotResident { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let result = serde_json::json!({
        "host": agent.host, "components": kept, "protect": args.protect, "keep_alive": args.keep_alive,
    });
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}

/// The same about the copies on a device.
fn on_device(agent: &Agent, device: &Device, meant: &[ComponentId], args: &CacheKeepArgs) -> Done {
    let mut kept = BTreeSet::new();
    for copy in device.resident() {
        let component = agent.aliases.now(copy.component);
        if meant.contains(&component) {
            device.tier.say(&copy, args.protect, args.keep_alive.map(of_tier));
            kept.insert(component);
        }
    }
    let result = serde_json::json!({
        "host": agent.host, "device": device.id, "components": kept, "protect": args.protect, "keep_alive": args.keep_alive,
    });
    Done { result, effects: Effects::Resident(Vec::new()) }
}

/// What a load's request says about a component that is on the device already, if it is in RAM as well.
pub(super) fn remember(agent: &Agent, component: ComponentId, keep: Keep) -> Result<(), ResidencyError> {
    for held in agent.aliases.held(component) {
        match say(agent, &held.to_string(), keep.protect.then_some(true), keep.keep_alive) {
            Ok(()) | Err(ResidencyError::NotResident { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a keep-alive says about copies on a device: one of zero is about RAM alone.
pub(super) fn on_a_device(keep_alive: job::KeepAlive) -> Option<KeepAlive> {
    Some(keep_alive).filter(|keep| keep.0 != Some(Duration::ZERO)).map(of_tier)
}

fn of_tier(job::KeepAlive(span): job::KeepAlive) -> KeepAlive {
    span.map_or(KeepAlive::Forever, KeepAlive::For)
}

/// What a load's request says about what it brought into RAM. A request that says nothing changes nothing.
pub(super) fn apply(agent: &Agent, lease: &Lease, keep: Keep) -> Result<(), ResidencyError> {
    match say(agent, lease.key(), keep.protect.then_some(true), keep.keep_alive) {
        // replaced by newer content since; what is said about it is said by the load of that
        Err(ResidencyError::NotResident { .. }) => Ok(()),
        said => said,
    }
}

fn say(
    agent: &Agent,
    key: &str,
    protect: Option<bool>,
    keep_alive: Option<job::KeepAlive>,
) -> Result<(), ResidencyError> {
    if let Some(protect) = protect {
        agent.tier.protect(key, protect)?;
    }
    if let Some(keep_alive) = keep_alive {
        agent.tier.set_keep_alive(key, Some(of_tier(keep_alive)))?;
    }
    if protect.is_none() && keep_alive.is_none() || agent.tier.holds(key) {
        return Ok(());
    }
    Err(ResidencyError::NotResident { key: key.into() })
}
