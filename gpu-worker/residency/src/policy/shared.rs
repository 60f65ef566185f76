//! Memory that several entries hold: it comes back with the last of them, and whoever plans counts it once.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Candidate;

/// Memory that an entry holds together with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMemory {
    /// Tells it from other memory of the same tier.
    pub memory: u64,
    /// Its bytes.
    pub bytes: u64,
    /// How many hold it, this entry included.
    pub holders: u32,
}

impl SharedMemory {
    /// One holder's part of the bytes.
    pub fn part(&self) -> u64 {
        self.bytes / u64::from(self.holders.max(1))
    }
}

/// What an entry holds: bytes of its own, and memory that others hold as well.
#[derive(Debug, Clone, Copy, Default)]
pub struct Holding<'a> {
    /// Bytes that come back with it alone.
    pub own_bytes: u64,
    /// The rest.
    pub shared: &'a [SharedMemory],
}

/// Entries that go, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Going {
    /// How many holders of each memory have gone.
    gone: HashMap<u64, u32>,
}

impl Going {
    /// One more goes: the bytes that come back with it.
    pub fn take(&mut self, holding: Holding<'_>) -> u64 {
        let mut bytes = holding.own_bytes;
        for shared in holding.shared {
            let gone = self.gone.entry(shared.memory).or_default();
            *gone += 1;
            bytes = bytes.saturating_add(if *gone == shared.holders { shared.bytes } else { 0 });
        }
        bytes
    }

    /// One of those stays after all: the bytes that do not come back then.
    pub fn spare(&mut self, holding: Holding<'_>) -> u64 {
        let mut bytes = holding.own_bytes;
        for shared in holding.shared {
            let gone = self.gone.entry(shared.memory).or_default();
            bytes = bytes.saturating_add(if *gone == shared.holders { shared.bytes } else { 0 });
            *gone = gone.saturating_sub(1);
        }
        bytes
    }

    /// What of this an entry that stays holds with others when all those have gone.
    pub fn leave(&self, shared: &mut [SharedMemory]) {
        for one in shared {
            let gone = self.gone.get(&one.memory).copied().unwrap_or(0);
            one.holders = one.holders.saturating_sub(gone).max(1);
        }
    }
}

/// One more holds so many bytes of what an entry holds: first what the entry holds with others and fits whole, then of its own, which are
/// memory of this number from then on. What the new holder has of it; whoever else holds it is told with [`joined`].
pub fn lend(own_bytes: &mut u64, shared: &mut Vec<SharedMemory>, bytes: u64, memory: u64) -> Vec<SharedMemory> {
    let (mut rest, mut lent) = (bytes, Vec::new());
    for one in shared.iter_mut() {
        // memory is held whole or not at all
        if one.bytes > rest {
            continue;
        }
        one.holders = one.holders.saturating_add(1);
        rest = rest.saturating_sub(one.bytes);
        lent.push(*one);
    }
    let bytes = rest.min(*own_bytes);
    if bytes > 0 {
        *own_bytes -= bytes;
        let one = SharedMemory { memory, bytes, holders: 2 };
        shared.push(one);
        lent.push(one);
    }
    lent
}

/// Somebody came to hold this memory as well.
pub fn joined(shared: &mut [SharedMemory], lent: &[SharedMemory]) {
    for one in shared {
        one.holders = lent.iter().find(|lent| lent.memory == one.memory).map_or(one.holders, |lent| lent.holders);
    }
}

/// Which of these go so that `need_bytes` come back, if they can: the first ones, of which the last ones are spared that the rest
/// does without. `only_idle` spares no others than those with which nothing comes back. None stands for what cannot go.
pub fn choose(order: &[Option<Holding<'_>>], need_bytes: u64, only_idle: bool) -> Vec<bool> {
    let (mut freed, mut going) = (0_u64, Going::default());
    let first = order.iter().map(|one| match one {
        Some(holding) if freed < need_bytes => {
            freed = freed.saturating_add(going.take(*holding));
            true
        }
        _ => false,
    });
    let mut chosen: Vec<bool> = first.collect();
    for (holding, goes) in order.iter().zip(&mut chosen).rev() {
        let Some(holding) = holding.filter(|_| *goes) else { continue };
        let bytes = going.spare(holding);
        if freed.saturating_sub(bytes) >= need_bytes.min(freed) && (bytes == 0 || !only_idle) {
            freed = freed.saturating_sub(bytes);
            *goes = false;
        } else {
            going.take(holding);
        }
    }
    chosen
}

/// Those that are left when some have gone, each with what it then holds with others.
pub fn left(mut candidates: Vec<Candidate>, gone: impl Fn(&Candidate) -> bool) -> Vec<Candidate> {
    let mut went = Going::default();
    for one in candidates.extract_if(.., |one| gone(one)) {
        went.take(one.holding());
    }
    candidates.iter_mut().for_each(|one| went.leave(&mut one.shared));
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_does_not_fit_whole_is_passed_over_and_the_rest_comes_from_what_the_entry_holds_alone() {
        let held = SharedMemory { memory: 1, bytes: 100, holders: 2 };
        let (mut own, mut shared) = (50, vec![held]);
        let lent = lend(&mut own, &mut shared, 50, 7);
        assert_eq!(lent, [SharedMemory { memory: 7, bytes: 50, holders: 2 }]);
        assert_eq!((own, shared), (0, vec![held, lent[0]]));
    }
}
