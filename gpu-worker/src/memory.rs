//! What the system says about memory: available on the host, resident in a process.

use std::{fs, io};

/// Bytes that programs may still take without swapping.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or has no such line.
pub fn available_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    field_kib(&text, "MemAvailable:")
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemAvailable line"))
}

/// Resident bytes of this process; 0 where `/proc` does not say.
pub fn own_rss_bytes() -> u64 {
    fs::read_to_string("/proc/self/status").ok().and_then(|text| field_kib(&text, "VmRSS:")).unwrap_or(0) * 1024
}

/// Bytes of a process's own memory (not shared, no file behind it), and all that is resident in it; zeros where `/proc` does
/// not say, as of a process that has just ended.
pub fn of_process(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bytes = |name| field_kib(&text, name).unwrap_or(0) * 1024;
    (bytes("RssAnon:"), bytes("VmRSS:"))
}

pub(crate) fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_proc() {
        assert_eq!(field_kib("MemTotal: 5 kB\nMemAvailable:   42 kB\n", "MemAvailable:"), Some(42));
        assert!(available_bytes().unwrap() > 0);
        assert!(own_rss_bytes() > 0);
        let (own, resident) = of_process(std::process::id());
        assert!(own > 0 && own < resident, "{own} of {resident}");
    }
}
