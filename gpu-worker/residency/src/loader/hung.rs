//! Disks with reads that were given up and have not come back: nobody else is sent there, so that a dead server holds the
//! threads of one load and not of all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// By device number: since when, and how many loads are stuck there. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Hung(Arc<Mutex<BTreeMap<u64, (Instant, usize)>>>);

impl Hung {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the first of these disks that hangs has done so; none when all answer.
    pub fn since(&self, devices: &[u64]) -> Option<Duration> {
        let hung = self.lock();
        devices.iter().find_map(|device| hung.get(device)).map(|(since, _)| since.elapsed())
    }

    /// Disks that hang.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// A load from these disks begins.
    pub(crate) fn begin(&self, devices: Vec<u64>) -> Afoot {
        Afoot(Arc::new(Reads { hung: self.clone(), devices, fate: Mutex::new(Fate::Awaited) }))
    }

    fn add(&self, devices: &[u64]) {
        let (mut hung, now) = (self.lock(), Instant::now());
        for device in devices {
            hung.entry(*device).or_insert((now, 0)).1 += 1;
        }
    }

    fn remove(&self, devices: &[u64]) {
        let mut hung = self.lock();
        for device in devices {
            if let Some((_, loads)) = hung.get_mut(device) {
                *loads = loads.saturating_sub(1);
            }
        }
        hung.retain(|_, (_, loads)| *loads > 0);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Awaited,
    GivenUp,
    Back,
}

#[derive(Debug)]
struct Reads {
    hung: Hung,
    devices: Vec<u64>,
    fate: Mutex<Fate>,
}

/// The reads of one load, held by who reads and by who waits.
#[derive(Debug, Clone)]
pub(crate) struct Afoot(Arc<Reads>);

impl Afoot {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.0.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for them any more, because their disk does not answer.
    pub(crate) fn give_up(&self) {
        let mut fate = self.fate();
        if *fate == Fate::Awaited {
            *fate = Fate::GivenUp;
            self.0.hung.add(&self.0.devices);
        }
    }

    /// All of them came back, with or without an error.
    pub(crate) fn are_back(&self) {
        if std::mem::replace(&mut *self.fate(), Fate::Back) == Fate::GivenUp {
            self.0.hung.remove(&self.0.devices);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_hangs_until_the_last_load_that_was_given_up_is_back() {
        let hung = Hung::default();
        let (one, two, fine) = (hung.begin(vec![1]), hung.begin(vec![1, 2]), hung.begin(vec![3]));
        one.give_up();
        two.give_up();
        two.give_up();
        fine.are_back();
        fine.give_up();
        assert!(hung.since(&[1]).is_some() && hung.since(&[9, 2]).is_some() && hung.since(&[3]).is_none());
        two.are_back();
        assert!(hung.since(&[1]).is_some() && hung.since(&[2]).is_none());
        one.are_back();
        one.are_back();
        assert_eq!(hung.count(), 0);
    }
}
