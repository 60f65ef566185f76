//! Series about devices, from the management library. While it does not answer, figures are absent: a gap, never zero.

use engine::nvml::{NVML_ERROR_CODES, NvmlDevice, NvmlView, Standing, THROTTLE_REASONS, condition};
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector};

/// Handles of all series; `gpu` is the vendor's UUID.
#[derive(Debug, Clone)]
pub struct VitalsMetrics {
    up: IntGauge,
    errors: IntCounterVec,
    incidents: IntCounterVec,
    info: IntGaugeVec,
    healthy: IntGaugeVec,
    memory_total_bytes: IntGaugeVec,
    memory_used_bytes: IntGaugeVec,
    utilization_ratio: GaugeVec,
    temperature_celsius: GaugeVec,
    power_watts: GaugeVec,
    energy_joules: GaugeVec,
    ecc_errors: IntGaugeVec,
    throttled: IntGaugeVec,
}

impl VitalsMetrics {
    /// Registers all series.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            up: IntGauge::new("modelyard_nvml_up", "1 while the devices' management library answers.")?,
            errors: counters("modelyard_nvml_errors_total", "Errors of the management library, by code.", &["code"])?,
            incidents: counters(
                "modelyard_device_xid_errors_total",
                "Incidents that the driver reported, by Xid or kind.",
                &["gpu", "xid"],
            )?,
            info: gauges(
                "modelyard_device_info",
                "What a device is.",
                &["gpu", "product", "driver", "pci", "compute_capability"],
            )?,
            healthy: gauges("modelyard_device_healthy", "1 while a device may get work.", &["gpu"])?,
            memory_total_bytes: gauges("modelyard_device_memory_total_bytes", "Memory of a device.", &["gpu"])?,
            memory_used_bytes: gauges(
                "modelyard_device_memory_used_bytes",
                "Memory of a device that all processes together take.",
                &["gpu"],
            )?,
            utilization_ratio: floats(
                "modelyard_device_utilization_ratio",
                "Share of time in which a device computed.",
            )?,
            temperature_celsius: floats("modelyard_device_temperature_celsius", "Temperature of a device.")?,
            power_watts: floats("modelyard_device_power_watts", "What a device draws.")?,
            energy_joules: floats(
                "modelyard_device_energy_joules",
                "What a device has drawn since the driver was loaded.",
            )?,
            ecc_errors: gauges(
                "modelyard_device_ecc_errors",
                "Memory errors since the driver was loaded, by kind.",
                &["gpu", "kind"],
            )?,
            throttled: gauges(
                "modelyard_device_throttled",
                "1 while a device's clocks are held down for this reason.",
                &["gpu", "reason"],
            )?,
        };
        for code in NVML_ERROR_CODES {
            metrics.errors.with_label_values(&[code]);
        }
        metrics.register_all(registry)?;
        Ok(metrics)
    }

    fn register_all(&self, registry: &Registry) -> prometheus::Result<()> {
        let all: [Box<dyn Collector>; 13] = [
            Box::new(self.up.clone()),
            Box::new(self.errors.clone()),
            Box::new(self.incidents.clone()),
            Box::new(self.info.clone()),
            Box::new(self.healthy.clone()),
            Box::new(self.memory_total_bytes.clone()),
            Box::new(self.memory_used_bytes.clone()),
            Box::new(self.utilization_ratio.clone()),
            Box::new(self.temperature_celsius.clone()),
            Box::new(self.power_watts.clone()),
            Box::new(self.energy_joules.clone()),
            Box::new(self.ecc_errors.clone()),
            Box::new(self.throttled.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// Sets all from what is known.
    pub fn observe(&self, view: &NvmlView) {
        let answering = view.standing == Standing::Answering;
        self.up.set(i64::from(answering));
        for (code, count) in &view.errors {
            raise(&self.errors, &[code], *count);
        }
        for event in &view.events {
            let gpu = event.uuid.as_deref().unwrap_or("unknown");
            raise(&self.incidents, &[gpu, &event.incident.label()], event.times);
        }
        if !answering {
            self.forget_figures();
        }
        let Some(figures) = &view.figures else { return };
        for device in &figures.devices {
            let uuid = device.identity.uuid.as_str();
            self.healthy.with_label_values(&[uuid]).set(i64::from(condition(view, uuid).takes_work()));
            if answering {
                self.info(device, figures.driver.as_deref());
                self.figures(device);
            }
        }
    }

    fn forget_figures(&self) {
        for gauge in [&self.info, &self.memory_total_bytes, &self.memory_used_bytes, &self.ecc_errors, &self.throttled]
        {
            gauge.reset();
        }
        for gauge in [&self.utilization_ratio, &self.temperature_celsius, &self.power_watts, &self.energy_joules] {
            gauge.reset();
        }
    }

    fn info(&self, device: &NvmlDevice, driver: Option<&str>) {
        let identity = &device.identity;
        let [driver, pci, capability] =
            [driver, identity.pci_bus_id.as_deref(), identity.compute_capability.as_deref()]
                .map(Option::unwrap_or_default);
        self.info.with_label_values(&[&identity.uuid, &identity.product, driver, pci, capability]).set(1);
    }

    /// Figure by figure, so that a scrape in between sees no gap; a lost device has no figures, and its series go.
    fn figures(&self, device: &NvmlDevice) {
        let gpu = device.identity.uuid.as_str();
        let counts = [
            (&self.memory_total_bytes, vec![gpu], device.memory.map(|memory| memory.total_bytes)),
            (&self.memory_used_bytes, vec![gpu], device.memory.map(|memory| memory.used_bytes)),
            (&self.ecc_errors, vec![gpu, "corrected"], device.ecc.map(|ecc| ecc.corrected)),
            (&self.ecc_errors, vec![gpu, "uncorrected"], device.ecc.map(|ecc| ecc.uncorrected)),
        ];
        for (gauge, labels, count) in counts {
            match count {
                Some(count) => gauge.with_label_values(&labels).set(signed(count)),
                // a series that is not there needs no removal
                None => drop(gauge.remove_label_values(&labels)),
            }
        }
        let figures = [
            (&self.utilization_ratio, device.utilization_ratio),
            (&self.temperature_celsius, device.temperature_celsius),
            (&self.power_watts, device.power_watts),
            (&self.energy_joules, device.energy_joules),
        ];
        for (gauge, figure) in figures {
            match figure {
                Some(figure) => gauge.with_label_values(&[gpu]).set(figure),
                None => drop(gauge.remove_label_values(&[gpu])),
            }
        }
        for reason in THROTTLE_REASONS {
            let held_down = device.throttled.contains(&reason);
            self.throttled.with_label_values(&[gpu, reason]).set(i64::from(held_down));
        }
    }
}

/// Sets a counter to a total that only grows.
fn raise(counters: &IntCounterVec, labels: &[&str], total: u64) {
    let counter = counters.with_label_values(labels);
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn floats(name: &str, help: &str) -> prometheus::Result<GaugeVec> {
    GaugeVec::new(Opts::new(name, help), &["gpu"])
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use engine::nvml::{DeviceFault, EccErrors, Identity, NvmlFigures};

    use super::*;

    fn text(registry: &Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn f32_figures_of_a_silent_library_or_a_lost_device_are_a_gap_not_zero() {
        let registry = Registry::new();
        let metrics = VitalsMetrics::register(&registry).unwrap();
        let device = NvmlDevice {
            identity: Identity { uuid: "GPU-a".into(), ..Identity::default() },
            temperature_celsius: Some(54.0),
            ecc: Some(EccErrors { corrected: 3, uncorrected: 0 }),
            throttled: vec!["thermal"],
            ..NvmlDevice::default()
        };
        let mut view = NvmlView {
            standing: Standing::Answering,
            figures: Some(NvmlFigures { devices: vec![device.clone()], ..NvmlFigures::default() }),
            events: Vec::new(),
            events_reason: None,
            errors: Default::default(),
        };
        metrics.observe(&view);
        let seen = text(&registry);
        for line in [
            r#"modelyard_device_temperature_celsius{gpu="GPU-a"} 54"#,
            r#"modelyard_device_ecc_errors{gpu="GPU-a",kind="corrected"} 3"#,
            r#"modelyard_device_throttled{gpu="GPU-a",reason="thermal"} 1"#,
            r#"modelyard_device_throttled{gpu="GPU-a",reason="power_cap"} 0"#,
            r#"modelyard_device_healthy{gpu="GPU-a"} 1"#,
        ] {
            assert!(seen.contains(line), "{line}: {seen}");
        }
        let lost = NvmlDevice { fault: Some(DeviceFault::Lost), identity: device.identity, ..NvmlDevice::default() };
        view.figures = Some(NvmlFigures { devices: vec![lost], ..NvmlFigures::default() });
        metrics.observe(&view);
        let seen = text(&registry);
        assert!(!seen.contains("temperature_celsius{") && !seen.contains("ecc_errors{"), "{seen}");
        assert!(seen.contains(r#"modelyard_device_healthy{gpu="GPU-a"} 0"#), "{seen}");
        view.standing = Standing::Unresponsive { call: "memory", seconds: 4 };
        metrics.observe(&view);
        assert!(!text(&registry).contains("throttled{"));
    }
}
