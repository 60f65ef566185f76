//! Ledgers beside what the system says (G8): one way to compare for RAM and for every device. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use shared::status::{HostSnapshot, Unaccounted};

/// A difference is told when it has lasted this long: what is being filled or freed differs for a moment.
const LASTS: Duration = Duration::from_secs(10);
/// What a device's driver may hold beside our slabs, and other programs take, before it is told.
const OF_A_DEVICE: u64 = 1 << 30;

/// A tier's ledger beside the system's figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// `ram`, or a device's name.
    pub tier: String,
    /// Bytes that are booked.
    pub ledger_bytes: u64,
    /// Bytes that are promised to what is being filled: it may take them or not.
    pub reserved_bytes: u64,
    /// Bytes by the system.
    pub system_bytes: u64,
    /// Difference that is nothing to tell about.
    pub allowed_bytes: u64,
}

impl Reading {
    /// What the system has more than the ledger explains; negative when it has less.
    pub fn difference(&self) -> i64 {
        let most = self.ledger_bytes.saturating_add(self.reserved_bytes);
        match self.system_bytes {
            system if system > most => signed(system - most),
            system => signed(self.ledger_bytes.saturating_sub(system)).saturating_neg(),
        }
    }
}

/// The readings of a host; `headroom_bytes` is what its memory may differ by.
pub fn readings(snapshot: &HostSnapshot, headroom_bytes: u64) -> Vec<Reading> {
    let ram = Reading {
        tier: "ram".to_owned(),
        ledger_bytes: snapshot.ram.used_bytes,
        reserved_bytes: snapshot.ram.reserved_bytes,
        system_bytes: snapshot.ram.system_bytes,
        allowed_bytes: headroom_bytes,
    };
    let device = |device: &shared::status::DeviceSnapshot| {
        let tier = device.id.rsplit('/').next().unwrap_or(&device.id).to_owned();
        let allowed_bytes = if tier.starts_with("cpu") { headroom_bytes } else { OF_A_DEVICE };
        Some(Reading {
            tier,
            ledger_bytes: device.memory_used_bytes,
            reserved_bytes: 0,
            system_bytes: device.memory_system_bytes?,
            allowed_bytes,
        })
    };
    std::iter::once(ram).chain(snapshot.devices.iter().filter_map(device)).collect()
}

/// Since when tiers differ, and which were told.
#[derive(Debug, Default)]
pub struct Auditor {
    since: BTreeMap<String, Instant>,
    told: Vec<String>,
}

/// What an audit found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Tiers that differ, and have for a while.
    pub unaccounted: Vec<Unaccounted>,
    /// Those of them that did not before.
    pub news: Vec<Unaccounted>,
}

impl Auditor {
    /// Compares.
    pub fn audit(&mut self, readings: &[Reading], now: Instant) -> Audit {
        let mut audit = Audit::default();
        for reading in readings {
            if reading.difference().unsigned_abs() <= reading.allowed_bytes {
                self.since.remove(&reading.tier);
                self.told.retain(|tier| *tier != reading.tier);
                continue;
            }
            let since = *self.since.entry(reading.tier.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= LASTS {
                self.tell(reading, &mut audit);
            }
        }
        audit
    }

    fn tell(&mut self, reading: &Reading, audit: &mut Audit) {
        let unaccounted = Unaccounted {
            tier: reading.tier.clone(),
            ledger_bytes: reading.ledger_bytes,
            system_bytes: reading.system_bytes,
            allowed_bytes: reading.allowed_bytes,
        };
        if !self.told.contains(&reading.tier) {
            self.told.push(reading.tier.clone());
            audit.news.push(unaccounted.clone());
        }
        audit.unaccounted.push(unaccounted);
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(ledger_bytes: u64, reserved_bytes: u64, system_bytes: u64) -> Reading {
        Reading { tier: "ram".into(), ledger_bytes, reserved_bytes, system_bytes, allowed_bytes: 10 }
    }

    #[test]
    fn g8_a_difference_is_told_once_it_has_lasted_and_again_after_it_was_gone() {
        let (mut auditor, start) = (Auditor::default(), Instant::now());
        let wrong = [reading(100, 0, 150)];
        assert_eq!(auditor.audit(&wrong, start), Audit::default());
        assert_eq!(auditor.audit(&wrong, start + LASTS).news.len(), 1);
        let later = auditor.audit(&wrong, start + LASTS * 2);
        assert_eq!((later.news.len(), later.unaccounted.len()), (0, 1));
        assert_eq!(auditor.audit(&[reading(100, 0, 105)], start + LASTS * 3), Audit::default());
        assert_eq!(auditor.audit(&wrong, start + LASTS * 4), Audit::default());
        assert_eq!(auditor.audit(&wrong, start + LASTS * 5).news.len(), 1);
    }

    proptest! {
        #[test]
        fn g8_what_is_being_filled_explains_up_to_what_was_promised(used: u32, reserved: u32, extra in 0_u64..1 << 33) {
            let (used, reserved) = (u64::from(used), u64::from(reserved));
            let difference = |system| reading(used, reserved, system).difference();
            prop_assert_eq!(difference(used + extra.min(reserved)), 0);
            prop_assert_eq!(difference(used + reserved + extra), signed(extra));
            let missing = extra.min(used);
            prop_assert_eq!(difference(used - missing), -signed(missing));
        }
    }
}
