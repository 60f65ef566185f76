//! What library and incidents together mean for one device. Pure.

use super::{NvmlDevice, NvmlView, Standing, Verdict};

/// How a device is, as far as the management library tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is known against it.
    Good,
    /// The library never spoke of it; it is used all the same.
    Unmonitored {
        /// Why.
        reason: String,
    },
    /// Nobody can say how it is (F32): it gets no new work; what runs on it goes on.
    Unknown {
        /// Why.
        reason: String,
    },
    /// It is broken (F30): it gets no new work and its process ends.
    Broken {
        /// Why.
        reason: String,
    },
}

impl Condition {
    /// The condition's name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unmonitored { .. } => "unmonitored",
            Self::Unknown { .. } => "unknown",
            Self::Broken { .. } => "broken",
        }
    }

    /// Why it is not good.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Good => None,
            Self::Unmonitored { reason } | Self::Unknown { reason } | Self::Broken { reason } => Some(reason),
        }
    }

    /// Whether the device may get new work.
    pub fn takes_work(&self) -> bool {
        matches!(self, Self::Good | Self::Unmonitored { .. })
    }
}

/// The condition of the device with this UUID.
///
/// A broken device stays broken while its fault lasts; after an incident that costs the device, for the life of this
/// process: nothing tells that it was reset since.
pub fn condition(view: &NvmlView, uuid: &str) -> Condition {
    let device = view.figures.as_ref().and_then(|figures| figures.device(uuid));
    if let Some(reason) = broken(view, device, uuid) {
        return Condition::Broken { reason };
    }
    let said = view.standing.reason().unwrap_or_default();
    match (&view.standing, device) {
        (Standing::Answering, Some(_)) => Condition::Good,
        (Standing::Answering, None) => Condition::Unmonitored { reason: "NVML does not list it".to_owned() },
        (Standing::Unmonitored { .. }, _) => Condition::Unmonitored { reason: format!("NVML is not used: {said}") },
        (Standing::Failing { .. }, _) => Condition::Unknown { reason: format!("NVML fails: {said}") },
        (Standing::Unresponsive { .. }, _) => Condition::Unknown { reason: format!("NVML is unresponsive: {said}") },
    }
}

fn broken(view: &NvmlView, device: Option<&NvmlDevice>, uuid: &str) -> Option<String> {
    if let Some(fault) = device.and_then(|device| device.fault) {
        return Some(fault.as_str().to_owned());
    }
    // events carry the library's UUID of the whole device
    let whole = device.map_or(uuid, |device| device.identity.uuid.as_str());
    let mut costly = view.events.iter().filter(|event| event.verdict() == Verdict::Device);
    let event = costly.find(|event| event.uuid.as_deref().is_none_or(|of| of == whole))?;
    Some(format!("{}; it comes back when the agent is restarted", event.incident.words()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::nvml::{DeviceFault, Identity, Incident, NvmlEvent, NvmlFigures};

    const UUID: &str = "GPU-a";

    fn view(standing: Standing) -> NvmlView {
        let identity = |uuid: &str| Identity { uuid: uuid.into(), ..Identity::default() };
        let device = |uuid| NvmlDevice { identity: identity(uuid), ..NvmlDevice::default() };
        let figures = NvmlFigures { devices: vec![device(UUID), device("GPU-b")], ..NvmlFigures::default() };
        NvmlView {
            standing,
            figures: Some(figures),
            events: Vec::new(),
            events_reason: None,
            errors: Default::default(),
        }
    }

    fn event(uuid: Option<&str>, number: u64) -> NvmlEvent {
        NvmlEvent { uuid: uuid.map(str::to_owned), incident: Incident::Xid(number), times: 1, last: Instant::now() }
    }

    #[test]
    fn f30_a_costly_incident_breaks_its_device_and_no_other() {
        let mut view = view(Standing::Answering);
        view.events = vec![event(Some(UUID), 31), event(Some(UUID), 79)];
        let broken = condition(&view, UUID);
        assert!(broken.reason().is_some_and(|reason| reason.contains("Xid 79 (the device fell off the bus)")));
        assert!(!broken.takes_work());
        assert_eq!(condition(&view, "GPU-b"), Condition::Good);
        view.events = vec![event(None, 79)];
        assert_eq!(condition(&view, "GPU-b").as_str(), "broken");
    }

    #[test]
    fn f31_incidents_of_programs_leave_the_device_good() {
        let mut view = view(Standing::Answering);
        view.events = [13, 31, 43, 45, 68, 109].map(|number| event(Some(UUID), number)).into();
        assert_eq!(condition(&view, UUID), Condition::Good);
    }

    #[test]
    fn f30_a_lost_device_is_broken_while_it_is_lost() {
        let mut view = view(Standing::Answering);
        let figures = view.figures.as_mut().unwrap();
        figures.devices[0].fault = Some(DeviceFault::Lost);
        assert_eq!(condition(&view, UUID).as_str(), "broken");
        view.figures.as_mut().unwrap().devices[0].fault = None;
        assert_eq!(condition(&view, UUID), Condition::Good);
    }

    #[test]
    fn f32_a_library_in_trouble_keeps_new_work_away_and_an_absent_one_does_not() {
        let failing = view(Standing::Failing { reason: "Unknown Error".into() });
        assert_eq!(condition(&failing, UUID).as_str(), "unknown");
        let hung = view(Standing::Unresponsive { call: "memory", seconds: 9 });
        assert!(!condition(&hung, UUID).takes_work());
        let absent = view(Standing::Unmonitored { reason: "no library".into() });
        assert!(condition(&absent, UUID).takes_work());
    }
}
