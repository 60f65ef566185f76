//! Things that threads of one load pass on: buffers that are free, buffers that are full. Who waits may stop wanting.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often somebody who waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// A queue with an end.
#[derive(Debug)]
pub(super) struct Handoff<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Those who may still put something in.
    givers: usize,
}

impl<T> Handoff<T> {
    /// With its first items, and so many who will [`Handoff::leave`] when they put nothing in any more.
    pub(super) fn new(items: impl IntoIterator<Item = T>, givers: usize) -> Self {
        let state = State { items: items.into_iter().collect(), givers };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behind all others.
    pub(super) fn put(&self, item: T) {
        self.state().items.push_back(item);
        self.changed.notify_one();
    }

    /// To be taken next: what was used last is still in the cache.
    pub(super) fn put_first(&self, item: T) {
        self.state().items.push_front(item);
        self.changed.notify_one();
    }

    /// The next one; none when nobody puts one in any more, or it is not wanted any more. `wanted` is asked only while
    /// waiting.
    pub(super) fn take(&self, wanted: impl Fn() -> bool) -> Option<T> {
        let mut state = self.state();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.givers == 0 || !wanted() {
                return None;
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One of those who put something in does so no more.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.givers = state.givers.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_and_then_the_end() {
        let queue = Handoff::new([1, 2], 2);
        queue.put(3);
        queue.put_first(0);
        queue.leave();
        assert!((0..4).all(|item| queue.take(|| false) == Some(item)));
        assert_eq!(queue.take(|| false), None, "not wanted any more");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.take(|| true));
            queue.leave();
            assert_eq!(waiting.join().unwrap(), None, "the last giver left");
        });
    }
}
