//! What machine and what programs figures belong to. Each fact is read where the system says it; one that it does not say is
//! left empty.

use std::fs;

use shared::wire::Fingerprint;

use crate::{
    context::{Agent, Device},
    vitals::nvml_status,
};

/// Largest file of the system that is looked at.
const BOUND: usize = 1 << 20;

/// The fingerprint of a device of this host.
pub fn of(agent: &Agent, device: &Device) -> Fingerprint {
    let processors = text("/proc/cpuinfo");
    let status = device.runner.status().borrow().clone();
    let engine = status.engine.as_ref();
    let library = engine.map(|engine| &engine.onnxruntime).filter(|library| library.available);
    let driver = agent.vitals.view().and_then(|view| nvml_status(&view, &[]).driver);
    Fingerprint {
        host: agent.host.clone(),
        cpu: cpu_model(&processors).unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(0, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_bytes: memory(&text("/proc/meminfo")).unwrap_or_default(),
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        device: device.name.clone(),
        product: status.facts.map(|facts| facts.product).unwrap_or_default(),
        driver: driver.filter(|_| !device.is_host_memory()),
        library: library.and_then(|library| library.version.clone().or_else(|| library.build.clone())),
        threads: engine.map(|engine| u32::from(engine.threads)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn text(path: &str) -> String {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    text.truncate(text.floor_char_boundary(BOUND));
    text
}

/// The first processor's model; on ARM the kernel names parts only, and those are taken.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let of = |field: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.trim() == field).map(|(_, value)| value.trim().to_owned())
    };
    of("model name").or_else(|| Some(format!("implementer {} part {}", of("CPU implementer")?, of("CPU part")?)))
}

/// `MemTotal`, in bytes.
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_memory_are_read_as_the_kernel_writes_them() {
        let intel =
            "processor\t: 0\nvendor_id\t: X\nmodel name\t: Some CPU 1.0GHz\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(cpu_model(intel).as_deref(), Some("Some CPU 1.0GHz"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(cpu_model(arm).as_deref(), Some("implementer 0x41 part 0xd0c"));
        assert_eq!(cpu_model(""), None);
        assert_eq!(memory("MemTotal:       24661260 kB\nMemFree: 1 kB\n"), Some(24_661_260 * 1024));
        assert_eq!(memory("MemTotal: much"), None);
    }
}
