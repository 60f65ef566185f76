//! Memory of the device that is set aside: for a run what it is expected to take beside the weights, until it ends; for a load
//! or a merge what it is about to take. One ledger between the thread that owns the device and the one that runs models, so
//! that neither is promised what the other was.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use engine::{DeviceError, DeviceMemory};

/// The ledger; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    memory: Memory,
    /// Bytes of allocations that are under way.
    claimed: u64,
    /// What runs have set aside, by their number here.
    aside: BTreeMap<u64, Aside>,
    next: u64,
}

/// The device's memory when it was last looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    capacity: u64,
    taken: u64,
    /// Of that, what no slab of ours takes.
    beside: u64,
}

/// What a run has set aside.
#[derive(Debug, Clone, Copy)]
struct Aside {
    bytes: u64,
    /// What was taken beside slabs at that moment: of what comes later as much is the run's own.
    beside: u64,
}

impl State {
    /// Bytes that are promised to others than this run, and not taken yet.
    fn promised(&self, but: Option<u64>) -> u64 {
        let outstanding = |aside: &Aside| aside.bytes.saturating_sub(self.memory.beside.saturating_sub(aside.beside));
        let others = self.aside.iter().filter(|(run, _)| Some(**run) != but).map(|(_, aside)| outstanding(aside));
        others.fold(self.claimed, u64::saturating_add)
    }

    fn available(&self, but: Option<u64>) -> u64 {
        let free = self.memory.capacity.saturating_sub(self.memory.taken).saturating_sub(self.promised(but));
        // what a run has taken of its own is no less its own
        let own = but.and_then(|run| self.aside.get(&run));
        let taken = own.map_or(0, |own| own.bytes.min(self.memory.beside.saturating_sub(own.beside)));
        free.saturating_add(taken).min(self.memory.capacity)
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how the device's memory stands.
    pub(super) fn look(&self, memory: DeviceMemory) {
        let DeviceMemory { capacity_bytes, used_bytes, system_bytes } = memory;
        let taken = used_bytes.max(system_bytes);
        self.lock().memory = Memory { capacity: capacity_bytes, taken, beside: taken.saturating_sub(used_bytes) };
    }

    /// Bytes that an allocation may take.
    #[cfg(test)]
    fn available(&self) -> u64 {
        self.lock().available(None)
    }

    /// Promises bytes to an allocation that is about to begin, while the answer lives.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] where they are there, but set aside. What is not there at all is for the device to say.
    pub(super) fn claim(&self, bytes: u64) -> Result<Claim, DeviceError> {
        let mut state = self.lock();
        let (available_bytes, capacity_bytes) = (state.available(None), state.memory.capacity);
        if bytes > available_bytes && state.promised(None) > 0 {
            return Err(DeviceError::OutOfMemory { needed_bytes: bytes, available_bytes, capacity_bytes });
        }
        state.claimed = state.claimed.saturating_add(bytes);
        Ok(Claim { ledger: self.clone(), bytes })
    }

    /// A place for what a run sets aside; nothing yet.
    pub(super) fn run(&self) -> RunAside {
        let mut state = self.lock();
        state.next += 1;
        RunAside { ledger: self.clone(), run: state.next }
    }
}

/// Bytes promised to an allocation.
#[derive(Debug)]
pub(super) struct Claim {
    ledger: Ledger,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        state.claimed = state.claimed.saturating_sub(self.bytes);
    }
}

/// What one run has set aside; given back when the run lets go of it.
#[derive(Debug)]
pub(super) struct RunAside {
    ledger: Ledger,
    run: u64,
}

impl RunAside {
    /// Bytes that the run may take in all.
    pub(super) fn available(&self) -> u64 {
        self.ledger.lock().available(Some(self.run))
    }

    /// Sets so many bytes aside in all; what it has already stays.
    ///
    /// # Errors
    /// The bytes that it may have, when these are more.
    pub(super) fn set(&self, bytes: u64) -> Result<(), u64> {
        let mut state = self.ledger.lock();
        let held = state.aside.get(&self.run).copied();
        if held.is_some_and(|held| held.bytes >= bytes) {
            return Ok(());
        }
        let available = state.available(Some(self.run));
        if bytes > available {
            return Err(available);
        }
        let beside = held.map_or(state.memory.beside, |held| held.beside);
        state.aside.insert(self.run, Aside { bytes, beside });
        Ok(())
    }
}

impl RunAside {
    /// Earlier runs gave so many bytes back. Counts until the device is looked at again, which is every second.
    pub(super) fn regained(&self, bytes: u64) {
        let memory = &mut self.ledger.lock().memory;
        let bytes = bytes.min(memory.beside);
        (memory.taken, memory.beside) = (memory.taken.saturating_sub(bytes), memory.beside.saturating_sub(bytes));
    }
}

impl Drop for RunAside {
    fn drop(&mut self) {
        self.ledger.lock().aside.remove(&self.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(used_bytes: u64, system_bytes: u64) -> DeviceMemory {
        DeviceMemory { capacity_bytes: 100, used_bytes, system_bytes }
    }

    fn ledger(used: u64) -> Ledger {
        let ledger = Ledger::default();
        ledger.look(memory(used, used));
        ledger
    }

    #[test]
    fn what_a_run_has_set_aside_is_not_given_to_a_load_until_the_run_ends() {
        let ledger = ledger(40);
        let run = ledger.run();
        assert_eq!(run.set(50), Ok(()));
        assert_eq!((ledger.available(), run.available()), (10, 60));
        let refused = ledger.claim(11);
        assert!(matches!(refused, Err(DeviceError::OutOfMemory { needed_bytes: 11, available_bytes: 10, .. })));
        assert!(ledger.claim(10).is_ok());
        drop(run);
        assert!(ledger.claim(60).is_ok());
    }

    #[test]
    fn what_a_load_was_promised_is_not_set_aside_for_a_run() {
        let ledger = ledger(40);
        let claim = ledger.claim(30).unwrap();
        let run = ledger.run();
        assert_eq!(run.set(31), Err(30));
        ledger.look(memory(70, 70));
        drop(claim);
        assert_eq!(run.set(31), Err(30), "it is taken now");
        assert_eq!((run.set(30), run.set(20)), (Ok(()), Ok(())), "it keeps the larger part");
        assert_eq!(ledger.available(), 0);
    }

    #[test]
    fn what_a_run_has_taken_is_not_counted_twice() {
        let ledger = ledger(40);
        ledger.look(memory(40, 45));
        let run = ledger.run();
        run.set(30).unwrap();
        assert_eq!(ledger.available(), 25);
        // the library's arena grows while the run goes on
        ledger.look(memory(40, 65));
        assert_eq!((ledger.available(), run.available()), (25, 55), "its own stays its own");
        assert_eq!(run.set(40), Ok(()));
        run.set(30).unwrap();
        assert_eq!(ledger.available(), 15);
        ledger.look(memory(40, 90));
        assert_eq!(ledger.available(), 10, "more than it said");
        assert!(ledger.claim(11).is_ok(), "nothing is outstanding: the device itself says what it has not");
    }

    #[test]
    fn runs_that_wait_for_each_other_share_nothing() {
        let ledger = ledger(0);
        let (first, second) = (ledger.run(), ledger.run());
        first.set(70).unwrap();
        assert_eq!(second.set(31), Err(30));
        assert_eq!(second.set(30), Ok(()));
        drop(first);
        assert_eq!(second.set(100), Ok(()));
    }

    #[test]
    fn what_earlier_runs_give_back_is_free_until_the_device_says_itself() {
        let ledger = ledger(40);
        ledger.look(memory(40, 70));
        let run = ledger.run();
        assert_eq!(run.set(50), Err(30));
        run.regained(25);
        assert_eq!(run.available(), 55);
        run.regained(25);
        assert_eq!(run.available(), 60, "never what slabs take");
        ledger.look(memory(40, 45));
        assert_eq!(run.available(), 55);
    }
}
