//! How devices are, as people read it.

use shared::{
    bytes::ByteSize,
    status::{DeviceVitals, NvmlStatus, Unaccounted},
};

use super::text::{age, bytes, bytes_of};

/// Facts of one device; what is not known is empty, and not shown.
pub(super) fn facts(vitals: &DeviceVitals) -> Vec<(&'static str, String)> {
    let condition = match &vitals.reason {
        Some(reason) => format!("{}: {reason}", vitals.condition),
        None => vitals.condition.clone(),
    };
    let memory = vitals.memory_used_bytes.zip(vitals.memory_total_bytes);
    vec![
        ("condition", condition),
        ("device memory", memory.map(|(used, total)| bytes_of(used, total)).unwrap_or_default()),
        ("runner memory", vitals.runner_bytes.map(bytes).unwrap_or_default()),
        ("utilization", vitals.utilization_ratio.map(|ratio| format!("{:.0} %", ratio * 100.0)).unwrap_or_default()),
        ("temperature", vitals.temperature_celsius.map(|degrees| format!("{degrees:.0} °C")).unwrap_or_default()),
        ("power", power(vitals)),
        ("memory errors", memory_errors(vitals)),
        ("throttled", vitals.throttled.join(", ")),
        ("PCI", vitals.pci_bus_id.clone().unwrap_or_default()),
        ("capability", vitals.compute_capability.clone().unwrap_or_default()),
        ("parts", parts(vitals)),
        ("incidents", incidents(vitals)),
    ]
}

fn power(vitals: &DeviceVitals) -> String {
    match (vitals.power_watts, vitals.power_limit_watts) {
        (Some(watts), Some(limit)) => format!("{watts:.0} W of {limit:.0} W"),
        (Some(watts), None) => format!("{watts:.0} W"),
        (None, _) => String::new(),
    }
}

fn memory_errors(vitals: &DeviceVitals) -> String {
    let counts = vitals.ecc_corrected.zip(vitals.ecc_uncorrected);
    counts.map(|(one, other)| format!("{one} corrected, {other} not")).unwrap_or_default()
}

fn parts(vitals: &DeviceVitals) -> String {
    let names = vitals.parts.iter().map(|part| format!("{} ({})", part.name, part.uuid));
    names.collect::<Vec<_>>().join(", ")
}

fn incidents(vitals: &DeviceVitals) -> String {
    let texts = vitals.incidents.iter().map(|incident| {
        format!("{} ×{}, {} ago, costs {}", incident.what, incident.times, age(incident.last), the(&incident.costs))
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn the(costs: &str) -> String {
    if costs == "nothing" { costs.to_owned() } else { format!("the {costs}") }
}

/// The management library of a host.
pub(super) fn nvml(status: &NvmlStatus) -> String {
    let driver = status.driver.as_ref().map(|driver| format!(", driver {driver}")).unwrap_or_default();
    let reason = status.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let listed = status.devices.len();
    format!("{}{reason}{driver}, {listed} {}", status.standing, if listed == 1 { "device" } else { "devices" })
}

/// A tier whose ledger and system differ.
pub(super) fn unaccounted(tier: &Unaccounted) -> String {
    format!(
        "`{}` holds {} by the system, {} by our ledger; up to {} would be nothing",
        tier.tier,
        ByteSize(tier.system_bytes),
        ByteSize(tier.ledger_bytes),
        ByteSize(tier.allowed_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_not_known_is_empty_and_a_condition_has_its_reason() {
        let vitals = DeviceVitals {
            condition: "broken".into(),
            reason: Some("Xid 79".into()),
            power_watts: Some(120.5),
            ..DeviceVitals::default()
        };
        let facts = facts(&vitals);
        let value = |name: &str| facts.iter().find(|(fact, _)| *fact == name).unwrap().1.clone();
        assert_eq!(value("condition"), "broken: Xid 79");
        assert_eq!((value("power").as_str(), value("temperature").as_str()), ("120 W", ""));
    }
}
