//! What a plan looks at: the copies of this host as the policies see them, and how many bytes a goal asks for.

use shared::job::OptimizeArgs;

use super::plan::{Piece, Place};
use crate::{
    account::component_of,
    context::{Agent, Device},
    device_tier,
};

/// All copies on this host. Those that would serve the goal are in its scope: of the device that is meant, or, for the host,
/// of RAM and of the devices that live in its memory.
pub fn pieces(agent: &Agent, meant: Option<&Device>) -> Vec<Piece> {
    let in_ram = agent.tier.candidates();
    let disk_seconds = |component| {
        let copy = in_ram.iter().find(|copy| component_of(agent, copy) == Some(component));
        copy.map_or(0.0, |copy| copy.reload_seconds)
    };
    let mut pieces = Vec::new();
    for device in agent.devices.values() {
        let in_scope = meant.map_or(device.is_host_memory(), |meant| meant.id == device.id);
        for candidate in device_tier::candidates(agent, device) {
            let Some(component) = component_of(agent, &candidate) else { continue };
            let place = Place::Device(device.id.clone());
            pieces.push(Piece { place, component, disk_seconds: disk_seconds(component), candidate, in_scope });
        }
    }
    for candidate in in_ram {
        let Some(component) = component_of(agent, &candidate) else { continue };
        pieces.push(Piece { place: Place::Ram, component, candidate, disk_seconds: 0.0, in_scope: meant.is_none() });
    }
    pieces
}

/// Bytes that have to come back now. Without a goal the configured headroom of the host is meant.
pub fn need_bytes(agent: &Agent, args: &OptimizeArgs, meant: Option<&Device>) -> u64 {
    if let Some(bytes) = args.free_bytes {
        return bytes;
    }
    match meant {
        Some(device) => {
            let memory = device.runner.status().borrow().memory;
            let free = memory.capacity_bytes.saturating_sub(memory.used_bytes);
            args.headroom_bytes.unwrap_or(0).saturating_sub(free)
        }
        None => {
            let seen = agent.pressure.borrow();
            let wanted = args.headroom_bytes.unwrap_or(seen.headroom_bytes);
            wanted.saturating_add(seen.sample.over_bytes()).saturating_sub(seen.sample.room_bytes())
        }
    }
}
