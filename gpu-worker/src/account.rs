//! Whose memory it is: every byte that is ours, by owner, with the system's own figures beside.

use std::collections::{BTreeMap, BTreeSet};

use residency::policy::{Candidate, would_free_bytes};
use shared::{
    ids::ComponentId,
    status::{HostMemory, ProcessMemory, SystemMemory, TierMemory},
};

use crate::{
    audit::Reading,
    context::{Agent, Device},
    device_tier, memory,
    pressure::Pressure,
};

/// The account of this host at this moment.
pub fn of_host(agent: &Agent) -> HostMemory {
    let devices: Vec<(&Device, Vec<Candidate>)> =
        agent.devices.values().map(|device| (device, device_tier::candidates(agent, device))).collect();
    let ram = agent.tier.candidates();
    let mut places: BTreeMap<ComponentId, BTreeSet<&str>> = BTreeMap::new();
    let named = devices.iter().map(|(device, copies)| (device.id.as_str(), copies));
    for (place, copies) in named.chain([("ram", &ram)]) {
        for component in copies.iter().filter_map(|copy| component_of(agent, copy)) {
            places.entry(component).or_default().insert(place);
        }
    }
    let elsewhere = |copy: &Candidate| {
        component_of(agent, copy).and_then(|component| places.get(&component)).is_some_and(|places| places.len() > 1)
    };
    let mut tiers = vec![of_ram(agent, &ram, &elsewhere)];
    tiers.extend(devices.iter().map(|(device, copies)| of_device(agent, device, copies, &elsewhere)));
    let processes = processes(agent);
    let weights: u64 = tiers.iter().filter(|tier| tier.host_memory).map(|tier| tier.system_bytes).sum();
    let own: u64 = processes.iter().map(|process| process.own_bytes).sum();
    let system = system(&agent.pressure.borrow());
    HostMemory { system, tiers, processes, ours_bytes: weights.saturating_add(own) }
}

fn system(seen: &Pressure) -> SystemMemory {
    let (sample, group) = (&seen.sample, seen.sample.group.as_ref());
    SystemMemory {
        total_bytes: sample.total_bytes,
        available_bytes: sample.available_bytes,
        room_bytes: sample.room_bytes(),
        headroom_bytes: seen.headroom_bytes,
        group_limit_bytes: group.map(|group| group.limit_bytes),
        group_used_bytes: group.map(|group| group.used_bytes),
    }
}

/// The component that a copy is of, under its present id. Keys of the tiers are component ids.
pub fn component_of(agent: &Agent, copy: &Candidate) -> Option<ComponentId> {
    copy.key.parse().ok().map(|held| agent.aliases.now(held))
}

fn of_ram(agent: &Agent, copies: &[Candidate], elsewhere: &impl Fn(&Candidate) -> bool) -> TierMemory {
    let ledger = agent.tier.ledger();
    let system_bytes = agent.tier.accounted_vs_system().map_or(0, |audit| audit.system_bytes);
    TierMemory {
        place: "ram".to_owned(),
        host_memory: true,
        capacity_bytes: ledger.capacity_bytes(),
        used_bytes: ledger.used_bytes,
        reserved_bytes: ledger.reserved_bytes,
        system_bytes,
        unaccounted_bytes: difference(ledger.used_bytes, ledger.reserved_bytes, system_bytes),
        ..sums(agent, copies, elsewhere)
    }
}

fn of_device(
    agent: &Agent,
    device: &Device,
    copies: &[Candidate],
    elsewhere: &impl Fn(&Candidate) -> bool,
) -> TierMemory {
    let memory = device.runner.status().borrow().memory;
    let variants = device.variants.among(&device.resident());
    TierMemory {
        place: device.id.clone(),
        host_memory: device.is_host_memory(),
        capacity_bytes: memory.capacity_bytes,
        used_bytes: memory.used_bytes,
        system_bytes: memory.system_bytes,
        unaccounted_bytes: difference(memory.used_bytes, 0, memory.system_bytes),
        variants: variants.len() as u64,
        variant_bytes: variants.iter().map(|(_, copy)| copy.bytes).sum(),
        ..sums(agent, copies, elsewhere)
    }
}

/// What the copies of a tier add up to.
fn sums(agent: &Agent, copies: &[Candidate], elsewhere: &impl Fn(&Candidate) -> bool) -> TierMemory {
    let of = |counts: &dyn Fn(&Candidate) -> bool| {
        copies.iter().filter(|copy| counts(copy)).map(Candidate::takes_bytes).sum()
    };
    let mut seen = BTreeSet::new();
    let second: u64 = copies
        .iter()
        .filter(|copy| component_of(agent, copy).is_some_and(|component| !seen.insert(component)))
        .map(Candidate::takes_bytes)
        .sum();
    TierMemory {
        copies: copies.len() as u64,
        leased_bytes: held_by(copies.iter().filter(|copy| copy.holders > 0)),
        protected_bytes: held_by(copies.iter().filter(|copy| copy.protected)),
        evictable_bytes: would_free_bytes(copies),
        duplicate_bytes: second,
        elsewhere_bytes: of(&|copy| elsewhere(copy)),
        ..TierMemory::default()
    }
}

/// Bytes of which nothing comes back while these stay: all that they hold, once.
fn held_by<'c>(copies: impl Iterator<Item = &'c Candidate>) -> u64 {
    let mut seen = BTreeSet::new();
    copies.fold(0, |sum, copy| {
        let shared = copy.shared.iter().filter(|shared| seen.insert(shared.memory)).map(|shared| shared.bytes);
        shared.fold(sum.saturating_add(copy.bytes), u64::saturating_add)
    })
}

fn processes(agent: &Agent) -> Vec<ProcessMemory> {
    let one = |name: &str, pid: u32| {
        let (own_bytes, resident_bytes) = memory::of_process(pid);
        ProcessMemory { name: name.to_owned(), pid, own_bytes, resident_bytes }
    };
    let runners = agent.devices.values().filter_map(|device| {
        let pid = device.runner.status().borrow().pid?;
        Some(one(&device.id, pid))
    });
    [one("agent", std::process::id())].into_iter().chain(runners).collect()
}

fn difference(ledger_bytes: u64, reserved_bytes: u64, system_bytes: u64) -> i64 {
    Reading { tier: String::new(), ledger_bytes, reserved_bytes, system_bytes, allowed_bytes: 0 }.difference()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use residency::policy::shared::SharedMemory;

    use super::*;

    #[test]
    fn memory_that_one_in_use_holds_with_others_is_in_use_whole_and_once() {
        let of = |bytes: u64, holders: u32| Candidate {
            key: bytes.to_string().into(),
            bytes,
            shared: vec![SharedMemory { memory: 1, bytes: 91, holders }],
            last_used: Duration::ZERO,
            loaded_at: Duration::ZERO,
            hits: 0,
            reload_seconds: 0.0,
            reuses_per_hour: 0.0,
            reused: false,
            holders: 1,
            protected: false,
        };
        assert_eq!(held_by([of(10, 2)].iter()), 101);
        assert_eq!(held_by([of(10, 3), of(20, 3)].iter()), 121);
    }
}
