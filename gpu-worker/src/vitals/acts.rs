//! What has to be done to runners after what the library said. Pure over plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use engine::nvml::{Condition, NvmlEvent, NvmlView, Verdict, condition};

/// An incident that comes so soon after a process was ready is the end of the one before it: ending a process may itself
/// be reported (Xid 45), and must not end the next one.
const OF_THE_ONE_BEFORE: Duration = Duration::from_secs(2);

/// A device with a vendor UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) id: String,
    pub(super) uuid: String,
    /// Since when its process is ready; none when it is not.
    pub(super) ready_since: Option<Instant>,
}

/// Something to do to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// End it and start no other (F30).
    Hold { device: String, reason: String },
    /// Start one again.
    Release { device: String },
    /// End it; another is started (F31).
    Recycle { device: String, reason: String },
}

impl Act {
    pub(super) fn device(&self) -> &str {
        match self {
            Self::Hold { device, .. } | Self::Release { device } | Self::Recycle { device, .. } => device,
        }
    }
}

/// What was done before.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    held: BTreeSet<String>,
    /// How often an incident had been seen when it was last dealt with, by device and its label.
    seen: BTreeMap<(String, String), u64>,
}

impl Keeper {
    /// What is to be done now.
    pub(super) fn step(&mut self, view: &NvmlView, devices: &[Watched]) -> Vec<Act> {
        devices.iter().filter_map(|device| self.device(view, device)).collect()
    }

    fn device(&mut self, view: &NvmlView, device: &Watched) -> Option<Act> {
        let fresh = self.fresh(view, device);
        match condition(view, &device.uuid) {
            Condition::Broken { reason } => {
                let new = self.held.insert(device.id.clone());
                new.then(|| Act::Hold { device: device.id.clone(), reason })
            }
            // a library in trouble proves nothing
            Condition::Unknown { .. } if self.held.contains(&device.id) => None,
            _ if self.held.remove(&device.id) => Some(Act::Release { device: device.id.clone() }),
            _ => {
                let event = fresh.into_iter().find(|event| strikes(event, device))?;
                Some(Act::Recycle { device: device.id.clone(), reason: event.incident.words() })
            }
        }
    }

    /// Incidents of programs on this device that were not dealt with before; they are now.
    fn fresh<'v>(&mut self, view: &'v NvmlView, device: &Watched) -> Vec<&'v NvmlEvent> {
        let whole = view.figures.as_ref().and_then(|figures| figures.device(&device.uuid));
        let uuid = whole.map_or(device.uuid.as_str(), |device| device.identity.uuid.as_str());
        let of_device = |event: &&NvmlEvent| {
            event.verdict() == Verdict::Runner && event.uuid.as_deref().is_none_or(|of| of == uuid)
        };
        let mut is_new = |event: &&NvmlEvent| {
            let seen = self.seen.entry((device.id.clone(), event.incident.label())).or_default();
            std::mem::replace(seen, event.times) < event.times
        };
        view.events.iter().filter(of_device).filter(|event| is_new(event)).collect()
    }
}

/// The incident belongs to the process that runs now.
fn strikes(event: &NvmlEvent, device: &Watched) -> bool {
    device.ready_since.is_some_and(|since| event.last.saturating_duration_since(since) > OF_THE_ONE_BEFORE)
}

#[cfg(test)]
mod tests {
    use engine::nvml::{Identity, Incident, NvmlDevice, NvmlFigures, Standing};

    use super::*;

    const UUID: &str = "GPU-a";

    fn view(events: Vec<NvmlEvent>, standing: Standing) -> NvmlView {
        let identity = Identity { uuid: UUID.into(), ..Identity::default() };
        let figures =
            NvmlFigures { devices: vec![NvmlDevice { identity, ..NvmlDevice::default() }], ..NvmlFigures::default() };
        NvmlView { standing, figures: Some(figures), events, events_reason: None, errors: BTreeMap::new() }
    }

    fn event(number: u64, times: u64, last: Instant) -> NvmlEvent {
        NvmlEvent { uuid: Some(UUID.into()), incident: Incident::Xid(number), times, last }
    }

    fn device(ready_since: Option<Instant>) -> Vec<Watched> {
        vec![Watched { id: "h/cuda:0".into(), uuid: UUID.into(), ready_since }]
    }

    fn answering(events: Vec<NvmlEvent>) -> NvmlView {
        view(events, Standing::Answering)
    }

    #[test]
    fn f31_a_programs_error_replaces_the_process_once() {
        let (start, mut keeper) = (Instant::now(), Keeper::default());
        let late = start + Duration::from_secs(60);
        let acts = keeper.step(&answering(vec![event(31, 1, late)]), &device(Some(start)));
        assert!(matches!(acts.as_slice(), [Act::Recycle { reason, .. }] if reason.contains("Xid 31")), "{acts:?}");
        assert!(keeper.step(&answering(vec![event(31, 1, late)]), &device(Some(start))).is_empty());
        let again = late + Duration::from_secs(9);
        assert_eq!(keeper.step(&answering(vec![event(31, 2, again)]), &device(Some(start))).len(), 1);
    }

    #[test]
    fn f31_the_echo_of_an_ended_process_does_not_end_the_next() {
        let (start, mut keeper) = (Instant::now(), Keeper::default());
        let echo = answering(vec![event(45, 1, start + Duration::from_secs(1))]);
        assert!(keeper.step(&echo, &device(Some(start))).is_empty());
        assert!(keeper.step(&echo, &device(None)).is_empty());
        // it was dealt with: it does not strike later
        assert!(keeper.step(&echo, &device(Some(start))).is_empty());
    }

    #[test]
    fn f30_a_broken_device_is_held_once_and_released_when_it_is_not_broken() {
        let (start, mut keeper) = (Instant::now(), Keeper::default());
        let acts = keeper.step(&answering(vec![event(79, 1, start)]), &device(Some(start)));
        assert!(matches!(acts.as_slice(), [Act::Hold { reason, .. }] if reason.contains("Xid 79")), "{acts:?}");
        assert!(keeper.step(&answering(vec![event(79, 1, start)]), &device(None)).is_empty());
        let hung = view(Vec::new(), Standing::Unresponsive { call: "memory", seconds: 4 });
        assert!(keeper.step(&hung, &device(None)).is_empty());
        assert_eq!(keeper.step(&answering(Vec::new()), &device(None)), [Act::Release { device: "h/cuda:0".into() }]);
    }

    #[test]
    fn f32_a_library_in_trouble_leaves_processes_alone() {
        let (start, mut keeper) = (Instant::now(), Keeper::default());
        let failing = view(Vec::new(), Standing::Failing { reason: "Unknown Error".into() });
        assert!(keeper.step(&failing, &device(Some(start))).is_empty());
    }
}
