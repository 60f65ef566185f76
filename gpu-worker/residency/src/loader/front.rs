//! How far a component is complete from its beginning, while its batches end in any order. Pure over their numbers.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::batch::Batch;

/// The first byte that is not there yet.
#[derive(Debug)]
pub(super) struct Front {
    /// Where each batch begins in the extent, ascending.
    begins: Vec<u64>,
    /// Where the last one ends.
    end: u64,
    done: Mutex<Done>,
}

#[derive(Debug, Default)]
struct Done {
    /// All batches before this one are there.
    first: usize,
    /// Those after it that are, too.
    beyond: BTreeSet<usize>,
}

impl Front {
    /// Of batches in the order of the extent, none of which is there.
    pub(super) fn new(batches: &[Batch]) -> Self {
        let begins = batches.iter().map(|batch| batch.target().0).collect();
        let end = batches.last().map_or(0, |batch| batch.target().1);
        Self { begins, end, done: Mutex::default() }
    }

    /// Where the last batch ends; zero without any.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// One more batch is there; bytes that are from the extent's beginning on.
    pub(super) fn done(&self, number: usize) -> u64 {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let Done { first, beyond } = &mut *done;
        beyond.insert(number);
        while beyond.remove(first) {
            *first += 1;
        }
        self.begins.get(*first).copied().unwrap_or(self.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::batch::Slice, *};

    /// Batches of these lengths, each behind the one before.
    fn batches(lens: &[u64]) -> Vec<Batch> {
        let mut to = 0;
        let batch = |(number, len): (usize, &u64)| {
            let slice = Slice { tensor: number, index: 0, offset: 0, whole: true, begin: to, to, len: *len as usize };
            to += len.next_multiple_of(256);
            Batch { number, file: 0, begin: slice.begin, end: slice.begin + len, slices: vec![slice] }
        };
        lens.iter().enumerate().map(batch).collect()
    }

    proptest! {
        #[test]
        fn it_never_passes_a_batch_that_is_missing_and_ends_at_the_end(
            lens in prop::collection::vec(0_u64..5_000, 1..40),
            seed in prop::collection::vec(any::<u64>(), 40),
        ) {
            let batches = batches(&lens);
            let mut order: Vec<usize> = (0..batches.len()).collect();
            order.sort_by_key(|number| seed[*number]);
            let front = Front::new(&batches);
            let mut missing: BTreeSet<usize> = order.iter().copied().collect();
            let mut last = 0;
            for number in order {
                missing.remove(&number);
                let there = front.done(number);
                prop_assert!(there >= last);
                prop_assert!(missing.iter().all(|number| batches[*number].target().0 >= there));
                last = there;
            }
            prop_assert_eq!(last, batches.last().unwrap().target().1);
        }
    }
}
