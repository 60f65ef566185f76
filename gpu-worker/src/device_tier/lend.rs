//! Copies that leave with what their runner makes next, in their memory: marked, handed over, recorded.

use residency::{
    Draft, Reason,
    policy::{
        self, PlanRow, Verdict,
        shared::{Going, Holding},
    },
};
use shared::ids::ComponentId;

use super::{candidates, evict::Leaving};
use crate::{
    context::{Agent, Device},
    runner::DeviceResident,
};

/// Copies that leave with what their runner makes next, in their memory: nobody takes them into use while this lives.
pub(crate) struct Lending<'d> {
    device: &'d Device,
    going: Vec<Lent<'d>>,
}

struct Lent<'d> {
    copy: DeviceResident,
    leaving: Leaving<'d>,
    row: Option<PlanRow>,
}

/// Marks those of these copies as leaving that are neither in use nor protected.
pub(crate) fn lend<'d>(agent: &Agent, device: &'d Device, components: &[ComponentId]) -> Lending<'d> {
    if components.is_empty() {
        return Lending { device, going: Vec::new() };
    }
    let (now, rows) = (device.tier.uptime(), candidates(agent, device));
    let deaths = device.deaths();
    let lent = |component: &ComponentId| {
        let copy = device.resident().into_iter().find(|copy| copy.component == *component)?;
        device.tier.book().leave(&copy, false, (&Reason::Room.into(), deaths), now).ok()?;
        let leaving = Leaving { device, component: *component, gone: false };
        let row = rows.iter().find(|one| *one.key == *component.to_string());
        let row = row.map(|one| policy::row(device.tier.rules, one, now, Verdict::Evict));
        Some(Lent { copy, leaving, row })
    };
    Lending { device, going: components.iter().filter_map(lent).collect() }
}

impl Lending<'_> {
    /// Which they are.
    pub(crate) fn components(&self) -> Vec<ComponentId> {
        self.going.iter().map(|lent| lent.copy.component).collect()
    }

    /// Keeps the record of those that have gone; the others stay.
    pub(crate) fn settle(self) {
        let (copies, mut shared) = (self.device.resident(), Going::default());
        for Lent { copy, mut leaving, row } in self.going {
            let is_it = |there: &DeviceResident| there.component == copy.component && there.since == copy.since;
            leaving.gone = !copies.iter().any(is_it);
            if leaving.gone {
                let freed_bytes = shared.take(Holding { own_bytes: copy.alone_bytes, shared: &copy.shared });
                let mut draft = Draft { freed_bytes, ..Draft::plain(Reason::Room) };
                draft.rows.extend(row);
                self.device.tier.record(draft);
                tracing::info!(variant = %copy.component, freed_bytes, device = self.device.id, "a variant went for another");
            }
        }
    }
}
