//! What the library says, as it is published.

use std::time::Instant;

use chrono::{DateTime, Utc};
use engine::nvml::{NvmlDevice, NvmlEvent, NvmlView, Standing, Verdict, condition};
use shared::status::{DeviceIncident, DevicePart, DeviceVitals, NvmlStatus};

/// The library with every device that it lists; `runners` are the processes of ours.
pub fn nvml_status(view: &NvmlView, runners: &[u32]) -> NvmlStatus {
    let figures = view.figures.as_ref();
    let devices = figures.map(|figures| figures.devices.as_slice()).unwrap_or_default();
    NvmlStatus {
        standing: view.standing.as_str().to_owned(),
        reason: view.standing.reason(),
        events_reason: view.events_reason.clone(),
        driver: figures.and_then(|figures| figures.driver.clone()),
        devices: devices.iter().map(|device| device_vitals(view, &device.identity.uuid, runners)).collect(),
    }
}

/// One device, by its UUID; without figures while the library does not answer: old ones are no figures.
pub fn device_vitals(view: &NvmlView, uuid: &str, runners: &[u32]) -> DeviceVitals {
    let condition = condition(view, uuid);
    let device = view.figures.as_ref().and_then(|figures| figures.device(uuid));
    let whole = device.map_or(uuid, |device| device.identity.uuid.as_str());
    let known = DeviceVitals {
        uuid: uuid.to_owned(),
        condition: condition.as_str().to_owned(),
        reason: condition.reason().map(str::to_owned),
        incidents: view.events.iter().filter(|event| is_of(event, whole)).map(incident).collect(),
        ..device.map(identity).unwrap_or_default()
    };
    match device.filter(|_| view.standing == Standing::Answering) {
        Some(device) => with_figures(known, device, runners),
        None => known,
    }
}

fn is_of(event: &NvmlEvent, uuid: &str) -> bool {
    event.uuid.as_deref().is_none_or(|of| of == uuid)
}

fn identity(device: &NvmlDevice) -> DeviceVitals {
    DeviceVitals {
        product: Some(device.identity.product.clone()).filter(|product| !product.is_empty()),
        pci_bus_id: device.identity.pci_bus_id.clone(),
        compute_capability: device.identity.compute_capability.clone(),
        ..DeviceVitals::default()
    }
}

fn with_figures(known: DeviceVitals, device: &NvmlDevice, runners: &[u32]) -> DeviceVitals {
    DeviceVitals {
        memory_total_bytes: device.memory.map(|memory| memory.total_bytes),
        memory_used_bytes: device.memory.map(|memory| memory.used_bytes),
        runner_bytes: runners.iter().find_map(|pid| device.bytes_of(*pid)),
        utilization_ratio: device.utilization_ratio,
        temperature_celsius: device.temperature_celsius,
        power_watts: device.power_watts,
        power_limit_watts: device.power_limit_watts,
        energy_joules: device.energy_joules,
        ecc_corrected: device.ecc.map(|ecc| ecc.corrected),
        ecc_uncorrected: device.ecc.map(|ecc| ecc.uncorrected),
        throttled: device.throttled.iter().map(|reason| (*reason).to_owned()).collect(),
        parts: device
            .parts
            .iter()
            .map(|part| DevicePart {
                uuid: part.uuid.clone(),
                name: part.name.clone(),
                memory_total_bytes: part.total_bytes,
            })
            .collect(),
        ..known
    }
}

fn incident(event: &NvmlEvent) -> DeviceIncident {
    DeviceIncident {
        what: event.incident.words(),
        costs: match event.verdict() {
            Verdict::Device => "device",
            Verdict::Runner => "runner",
            Verdict::Warning => "nothing",
        }
        .to_owned(),
        times: event.times,
        last: on_the_clock(event.last),
    }
}

/// A moment by the host's clock, to the second: it must not differ from picture to picture.
fn on_the_clock(moment: Instant) -> DateTime<Utc> {
    let at = Utc::now() - moment.elapsed();
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use engine::nvml::{Identity, NvmlFigures, NvmlMemory, NvmlProcess};

    use super::*;

    fn view(standing: Standing) -> NvmlView {
        let device = NvmlDevice {
            identity: Identity { uuid: "GPU-a".into(), product: "One".into(), ..Identity::default() },
            memory: Some(NvmlMemory { total_bytes: 10, used_bytes: 4, reserved_bytes: 1, free_bytes: 5 }),
            processes: Some(vec![NvmlProcess { pid: 7, bytes: Some(3) }]),
            ..NvmlDevice::default()
        };
        let figures = NvmlFigures { began: None, driver: Some("570".into()), devices: vec![device] };
        NvmlView {
            standing,
            figures: Some(figures),
            events: Vec::new(),
            events_reason: None,
            errors: Default::default(),
        }
    }

    #[test]
    fn figures_are_told_while_they_are_fresh() {
        let status = nvml_status(&view(Standing::Answering), &[7]);
        let device = &status.devices[0];
        assert_eq!(
            (device.memory_used_bytes, device.runner_bytes, device.condition.as_str()),
            (Some(4), Some(3), "good")
        );
    }

    #[test]
    fn f32_old_figures_are_no_figures() {
        let status = nvml_status(&view(Standing::Unresponsive { call: "memory", seconds: 4 }), &[7]);
        let device = &status.devices[0];
        assert_eq!((status.standing.as_str(), device.condition.as_str()), ("unresponsive", "unknown"));
        assert_eq!((device.memory_used_bytes, device.runner_bytes), (None, None));
        assert_eq!(device.product.as_deref(), Some("One"));
    }
}
