//! Components that were merged into another after this agent had loaded them: the bytes stay under the id that they were
//! loaded under, and whoever asks for the component by its present id must find them.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use residency::Reason;
use shared::{error::chain, ids::ComponentId};

use crate::{context::Agent, device_tier::evict};

/// Ids that bytes are held under, with the component that they are now. Lives as long as the process that holds the bytes.
#[derive(Debug, Default)]
pub struct Aliases(RwLock<BTreeMap<ComponentId, ComponentId>>);

impl Aliases {
    /// `held` is the component `now`.
    pub fn learn(&self, held: ComponentId, now: ComponentId) {
        let mut aliases = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for target in aliases.values_mut().filter(|target| **target == held) {
            *target = now;
        }
        if held != now {
            aliases.insert(held, now);
        }
    }

    /// The component that bytes held under `held` are.
    pub fn now(&self, held: ComponentId) -> ComponentId {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&held).copied().unwrap_or(held)
    }

    /// All ids that bytes of `component` may be held under, its own first.
    pub fn held(&self, component: ComponentId) -> Vec<ComponentId> {
        let aliases = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let others = aliases.iter().filter(|(_, now)| **now == component).map(|(held, _)| *held);
        std::iter::once(component).chain(others).collect()
    }
}

/// Gives one of two copies back where the same bytes are held under both ids: in RAM and on each device. A copy in use
/// stays; it is found under either id and evicted like any other.
pub async fn fold(agent: &Agent, held: ComponentId, now: ComponentId) {
    let (old, new) = (held.to_string(), now.to_string());
    if agent.tier.holds(&new) {
        match agent.tier.evict_for(&old, Reason::Duplicate).await {
            Ok(freed) => tracing::info!(component = %now, freed_bytes = freed.0, "gave a second copy in RAM back"),
            Err(kept) => tracing::debug!(component = %now, reason = %chain(&kept), "kept a second copy in RAM"),
        }
    }
    for device in agent.devices.values() {
        let copies = device.resident();
        let copy_of = |id| copies.iter().find(|copy| copy.component == id);
        if let (Some(second), Some(first)) = (copy_of(held), copy_of(now)) {
            device.tier.hand_over(second, first);
            match evict::take(agent, device, held, Reason::Duplicate, true).await {
                Ok(freed_bytes) => {
                    tracing::info!(component = %now, freed_bytes, device = device.id, "gave a second copy on a device back");
                }
                Err(kept) => {
                    tracing::debug!(component = %now, reason = %chain(&kept), "kept a second copy on a device")
                }
            }
        }
    }
}

/// Gives bytes back that turned out not to be a component's, in RAM and on each device. What is in use just now stays until
/// it is evicted; nobody gets it for that component, as its digest is not the registered one.
pub async fn give_back(agent: &Agent, component: ComponentId) {
    if let Err(kept) = agent.tier.evict(&component.to_string()).await {
        tracing::warn!(%component, reason = %chain(&kept), "bytes that are not the component's stay in RAM until they are evicted");
    }
    for device in agent.devices.values() {
        let is_there = device.runner.status().borrow().resident.iter().any(|resident| resident.component == component);
        if is_there && let Err(kept) = evict::take(agent, device, component, Reason::Requested, true).await {
            tracing::warn!(%component, reason = %chain(&kept), device = device.id, "bytes that are not the component's stay on a device until they are evicted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_of_a_merge_is_followed_in_both_directions() {
        let [a, b, c] = std::array::from_fn(|_| ComponentId::generate());
        let aliases = Aliases::default();
        aliases.learn(a, b);
        aliases.learn(b, c);
        assert_eq!((aliases.now(a), aliases.now(b), aliases.now(c)), (c, c, c));
        let mut held = aliases.held(c);
        assert_eq!(held.remove(0), c);
        held.sort();
        assert_eq!(held, {
            let mut both = [a, b];
            both.sort();
            both.to_vec()
        });
    }
}
