//! How fast each disk really gave us its bytes, as a moving average, and what a reload would take by that.

use std::{collections::HashMap, time::Duration};

/// Weight of the newest load.
const NEW: f64 = 0.3;
/// Loads of fewer bytes say more about their start than about the disk.
const MIN_BYTES: u64 = 1 << 20;
/// Assumed while nothing was measured.
const FIRST_BYTES_PER_SECOND: f64 = 1e9;

/// Measured bytes per second by device number.
#[derive(Debug, Default)]
pub struct Bandwidth {
    by_device: HashMap<u64, f64>,
}

/// Bytes that a component reads from one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFrom {
    /// Device number of the files.
    pub device: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Bandwidth {
    /// A load that read `from` took so long. Only loads from one device are taken: of others nobody knows which was slow.
    pub fn observe(&mut self, from: &[ReadFrom], took: Duration) {
        let [one] = from else { return };
        let seconds = took.as_secs_f64();
        if one.bytes < MIN_BYTES || seconds <= 0.0 {
            return;
        }
        let measured = one.bytes as f64 / seconds;
        let speed = self.by_device.entry(one.device).or_insert(measured);
        *speed += (measured - *speed) * NEW;
    }

    /// Seconds to read `from` one device after the other.
    pub fn seconds(&self, from: &[ReadFrom]) -> f64 {
        from.iter().map(|part| part.bytes as f64 / self.bytes_per_second(part.device)).sum()
    }

    /// The measured speed of a device, or of an average one.
    pub fn bytes_per_second(&self, device: u64) -> f64 {
        let average = || {
            let known = self.by_device.len();
            if known == 0 { FIRST_BYTES_PER_SECOND } else { self.by_device.values().sum::<f64>() / known as f64 }
        };
        self.by_device.get(&device).copied().unwrap_or_else(average).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn follows_what_was_measured_and_ignores_what_says_nothing() {
        let mut bandwidth = Bandwidth::default();
        let (fast, slow) = (ReadFrom { device: 1, bytes: 100 * MIB }, ReadFrom { device: 2, bytes: 100 * MIB });
        bandwidth.observe(&[fast], Duration::from_secs(1));
        bandwidth.observe(&[slow], Duration::from_secs(10));
        assert!((bandwidth.seconds(&[fast]) - 1.0).abs() < 1e-9);
        assert!((bandwidth.seconds(&[fast, slow]) - 11.0).abs() < 1e-9);
        bandwidth.observe(&[ReadFrom { device: 1, bytes: 10 }], Duration::from_secs(1));
        bandwidth.observe(&[fast, slow], Duration::from_secs(1000));
        bandwidth.observe(&[fast], Duration::ZERO);
        assert!((bandwidth.seconds(&[fast]) - 1.0).abs() < 1e-9);
        for _ in 0..50 {
            bandwidth.observe(&[fast], Duration::from_secs(5));
        }
        assert!((bandwidth.seconds(&[fast]) - 5.0).abs() < 0.01);
    }

    #[test]
    fn an_unknown_disk_is_an_average_one() {
        let mut bandwidth = Bandwidth::default();
        let part = ReadFrom { device: 9, bytes: 1_000_000_000 };
        assert!((bandwidth.seconds(&[part]) - 1.0).abs() < 1e-9);
        bandwidth.observe(&[ReadFrom { device: 1, bytes: 100_000_000 }], Duration::from_secs(1));
        assert!((bandwidth.seconds(&[part]) - 10.0).abs() < 1e-9);
    }
}
