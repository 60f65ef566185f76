//! A bounded number of turns, for those who may stop wanting one while they wait.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often somebody who waits for a turn looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Lets so many in at a time.
#[derive(Debug)]
pub(super) struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Gate {
    pub(super) fn new(turns: usize) -> Self {
        Self { free: Mutex::new(turns), freed: Condvar::new() }
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn; none when it is not wanted any more. `wanted` is asked only while waiting.
    pub(super) fn turn(&self, wanted: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut free = self.free();
        while *free == 0 {
            if !wanted() {
                return None;
            }
            free = self.freed.wait_timeout(free, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Turn(self))
    }
}

/// Somebody is in.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Gate);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn no_more_at_a_time_than_there_are_turns() {
        let gate = Gate::new(4);
        let mut turns: Vec<_> = (0..4).map(|_| gate.turn(|| true).unwrap()).collect();
        assert!(gate.turn(|| false).is_none(), "a fifth was let in");
        std::thread::scope(|scope| {
            let (sender, got) = sync_channel(1);
            let gate = &gate;
            scope.spawn(move || sender.send(gate.turn(|| true).is_some()).unwrap());
            turns.pop();
            assert!(got.recv().unwrap());
        });
    }
}
