//! The bound on the bytes of a device's variants: kept before one is made and after it.

use std::collections::BTreeSet;

use shared::ids::ComponentId;

use super::{
    book::{Variant, Weighed, closest, held_bytes, surplus},
    ensure::Wanted,
};
use crate::{
    context::{Agent, Device},
    device_tier::evict,
    runner::DeviceResident,
};

/// The variant that this one will share most with, which has to stay until then, and the bytes that are made anew.
pub(super) fn reckoned(agent: &Agent, device: &Device, wanted: &Wanted<'_>) -> (BTreeSet<ComponentId>, u64) {
    let all = device.variants.among(&device.resident());
    let base = agent.aliases.now(wanted.base.component);
    let closest = closest(&all, (base, &wanted.base.digest), wanted.plan).map(|(variant, _)| variant);
    let held = closest.map_or(0, |variant| held_bytes(variant, wanted.plan));
    (closest.map(|variant| variant.id).into_iter().collect(), wanted.plan.bytes().saturating_sub(held))
}

/// The variants that go for so many bytes of a new one, so that the bound on their bytes is kept; `spared` ones and those in use stay.
pub(super) fn going(agent: &Agent, device: &Device, incoming: u64, spared: &BTreeSet<ComponentId>) -> Vec<ComponentId> {
    let weighed = weighed(device, &device.variants.among(&device.resident()), spared);
    surplus(&weighed, incoming, agent.variant_budget(device))
}

/// Takes off variants above the bound on their bytes; those in use stay. What was taken into use meanwhile does not go, so it is
/// looked at again until nothing more does.
pub(super) async fn trim(agent: &Agent, device: &Device) {
    loop {
        let mut went = false;
        for id in going(agent, device, 0, &BTreeSet::new()) {
            match evict::take(agent, device, id, residency::Reason::Room, false).await {
                Ok(bytes) => {
                    went = true;
                    tracing::info!(variant = %id, bytes, device = device.id, "took a variant above their bound off");
                }
                Err(stays) => tracing::debug!(variant = %id, %stays, device = device.id, "a variant stays"),
            }
        }
        if !went {
            return;
        }
    }
}

/// Variants as the bound on their bytes sees them; `spared` ones, and those that are used or kept, stay.
pub(super) fn weighed(
    device: &Device,
    all: &[(Variant, DeviceResident)],
    spared: &BTreeSet<ComponentId>,
) -> Vec<Weighed> {
    // what was converted takes no bytes beside its base
    let counted = all.iter().filter(|(variant, _)| !variant.is_whole);
    let one = |(variant, copy): &(Variant, DeviceResident)| {
        let noted = device.tier.noted(copy);
        let may_go = noted.leases == 0 && !noted.protected && !spared.contains(&variant.id);
        let (bytes, shared) = (copy.alone_bytes, copy.shared.clone());
        Weighed { id: variant.id, bytes, shared, seconds: variant.seconds, may_go }
    };
    counted.map(one).collect()
}
