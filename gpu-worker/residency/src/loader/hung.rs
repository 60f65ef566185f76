//! Disks with reads that were given up and have not come back: nobody else is sent there, so that a dead server holds the
//! threads of one load and not of all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// By device number: since when, and how many loads are stuck there. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Hung {
    disks: Arc<Mutex<BTreeMap<u64, (Instant, usize)>>>,
    /// Reads that nobody waits for and that may still come back soon, with the time at which that is no longer believed.
    doubted: Arc<Mutex<Vec<(Instant, Afoot)>>>,
}

impl Hung {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, usize)>> {
        self.settle();
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up on what was doubted long enough.
    fn settle(&self) {
        let now = Instant::now();
        let due: Vec<Afoot> = {
            let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
            doubted.retain(|(_, reads)| reads.is_awaited());
            doubted.extract_if(.., |(until, _)| *until <= now).map(|(_, reads)| reads).collect()
        };
        for reads in due {
            reads.give_up();
        }
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

    /// A read from these disks begins, of somebody who does not say which of them was called.
    pub fn begin(&self, devices: Vec<u64>) -> Afoot {
        self.begin_as(devices, false)
    }

    /// A read from these disks begins, of somebody who says each call: with none under way no disk is waited for.
    pub(crate) fn begin_by_call(&self, devices: Vec<u64>) -> Afoot {
        self.begin_as(devices, true)
    }

    fn begin_as(&self, devices: Vec<u64>, tells: bool) -> Afoot {
        let (fate, calls) = (Mutex::new(Fate::Awaited), Mutex::default());
        Afoot(Arc::new(Reads { hung: self.clone(), devices, tells, fate, calls }))
    }

    fn add(&self, devices: &[u64]) {
        let mut hung = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for device in devices {
            hung.entry(*device).or_insert((now, 0)).1 += 1;
        }
    }

    fn remove(&self, devices: &[u64]) {
        let mut hung = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        for device in devices {
            if let Some((_, loads)) = hung.get_mut(device) {
                *loads = loads.saturating_sub(1);
            }
        }
        hung.retain(|_, (_, loads)| *loads > 0);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Awaited,
    /// These disks did not answer.
    GivenUp(Vec<u64>),
    Back,
}

#[derive(Debug)]
struct Reads {
    hung: Hung,
    devices: Vec<u64>,
    /// Who reads says each call.
    tells: bool,
    fate: Mutex<Fate>,
    /// Calls that a disk has not answered yet.
    calls: Mutex<BTreeMap<u64, usize>>,
}

impl Reads {
    fn calls(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disks that have not answered; all of them where nobody says which were called.
    fn silent(&self) -> Vec<u64> {
        if self.tells { self.calls().keys().copied().collect() } else { self.devices.clone() }
    }
}

/// One call to a disk, until it is dropped.
#[derive(Debug)]
pub(super) struct Call<'a> {
    reads: &'a Reads,
    device: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut calls = self.reads.calls();
        if let Some(count) = calls.get_mut(&self.device) {
            *count = count.saturating_sub(1);
        }
        calls.retain(|_, count| *count > 0);
    }
}

/// The reads of one load, held by who reads and by who waits.
#[derive(Debug, Clone)]
pub struct Afoot(Arc<Reads>);

/// Held by who reads: when it is dropped, however that comes, the reads are back.
#[derive(Debug)]
pub struct Reading(Afoot);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.are_back();
    }
}

impl Reading {
    /// Says, while the guard lives, that this disk was called and has not answered.
    pub(super) fn call(&self, device: u64) -> Call<'_> {
        let reads = &*self.0.0;
        *reads.calls().entry(device).or_default() += 1;
        Call { reads, device }
    }
}

impl Afoot {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.0.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_awaited(&self) -> bool {
        *self.fate() == Fate::Awaited
    }

    /// For who reads.
    pub fn reading(&self) -> Reading {
        Reading(self.clone())
    }

    /// Nobody waits for them any more; unless they come back within `patience`, their disk does not answer.
    pub fn doubt(&self, patience: Duration) {
        if !patience.is_zero() {
            let until = Instant::now() + patience;
            self.0.hung.doubted.lock().unwrap_or_else(PoisonError::into_inner).push((until, self.clone()));
        }
    }

    /// Nobody waits for them any more, because nothing came. The disks that do not answer: those with a call that is not
    /// answered, or all where that is not known; none when the reads are back, or when it is no disk that they wait for.
    pub fn give_up(&self) -> Vec<u64> {
        let mut fate = self.fate();
        if *fate == Fate::Awaited {
            let silent = self.0.silent();
            self.0.hung.add(&silent);
            *fate = Fate::GivenUp(silent);
        }
        if let Fate::GivenUp(silent) = &*fate { silent.clone() } else { Vec::new() }
    }

    /// All of them came back, with or without an error.
    fn are_back(&self) {
        if let Fate::GivenUp(silent) = std::mem::replace(&mut *self.fate(), Fate::Back) {
            self.0.hung.remove(&silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_were_cancelled_and_do_not_come_back_are_given_up_later() {
        let hung = Hung::default();
        let (slow, dead) = (hung.begin(vec![1]), hung.begin(vec![2]));
        slow.doubt(Duration::from_secs(600));
        dead.doubt(Duration::from_nanos(1));
        let reading = dead.reading();
        while hung.since(&[2]).is_none() {
            std::thread::yield_now();
        }
        assert!(hung.since(&[1]).is_none());
        drop((slow.reading(), reading));
        assert_eq!((hung.count(), hung.doubted.lock().unwrap().len()), (0, 0));
    }

    #[test]
    fn of_two_disks_only_the_one_that_does_not_answer_hangs() {
        let hung = Hung::default();
        let reads = hung.begin_by_call(vec![1, 2]);
        let reading = reads.reading();
        let answered = reading.call(1);
        let silent = [reading.call(2), reading.call(2)];
        drop(answered);
        assert_eq!(reads.give_up(), [2]);
        assert!(hung.since(&[1]).is_none() && hung.since(&[2]).is_some());
        drop(silent);
        assert!(hung.since(&[2]).is_some(), "others of its reads may be stuck");
        drop(reading);
        assert_eq!((hung.count(), reads.give_up()), (0, vec![]));
    }

    #[test]
    fn who_says_each_call_and_has_none_under_way_waits_for_no_disk() {
        let hung = Hung::default();
        let (told, untold) = (hung.begin_by_call(vec![1]), hung.begin(vec![1]));
        let reading = told.reading();
        drop(reading.call(1));
        assert_eq!((told.give_up(), hung.count()), (vec![], 0), "it answered all that it was asked");
        assert_eq!((untold.give_up(), hung.count()), (vec![1], 1));
        drop(reading);
        assert_eq!(hung.count(), 1, "those who are back take away only what they brought");
    }

    #[test]
    fn a_disk_hangs_until_the_last_load_that_was_given_up_is_back() {
        let hung = Hung::default();
        let (one, two, fine) = (hung.begin(vec![1]), hung.begin(vec![1, 2]), hung.begin(vec![3]));
        one.give_up();
        two.give_up();
        two.give_up();
        fine.are_back();
        assert_eq!(fine.give_up(), []);
        assert!(hung.since(&[1]).is_some() && hung.since(&[9, 2]).is_some() && hung.since(&[3]).is_none());
        two.are_back();
        assert!(hung.since(&[1]).is_some() && hung.since(&[2]).is_none());
        one.are_back();
        one.are_back();
        assert_eq!(hung.count(), 0);
    }
}
