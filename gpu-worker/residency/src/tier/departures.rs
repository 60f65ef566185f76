//! Why content leaves, from the moment in which it begins to, until whoever tells of it has told. A decision is recorded when all
//! of its victims are gone; who looks at the tier meanwhile must know why some of them are not there any more.

use std::{collections::BTreeMap, sync::Arc};

use super::decisions::Reason;
use crate::request::Key;

/// Why a component is taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The reason.
    pub reason: Reason,
    /// The component that needs room.
    pub wanted: Option<String>,
    /// Who asked for it.
    pub by: Option<Arc<str>>,
}

impl From<Reason> for Why {
    /// A reason and no more.
    fn from(reason: Reason) -> Self {
        Self { reason, wanted: None, by: None }
    }
}

impl Why {
    /// Somebody asked for it.
    pub fn asked(reason: Reason, by: &str) -> Self {
        Self { by: Some(by.into()), ..Self::from(reason) }
    }
}

/// One component on its way out, or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The component.
    pub key: Key,
    /// Why.
    pub why: Why,
    /// When, on the wall clock.
    pub unix_ms: u64,
}

/// The last departure of each component that was not told yet.
#[derive(Debug, Default)]
pub struct Departures {
    last: BTreeMap<Key, Departure>,
}

impl Departures {
    /// It begins to leave.
    pub fn leaves(&mut self, key: &Key, why: Why, unix_ms: u64) {
        self.last.insert(key.clone(), Departure { key: key.clone(), why, unix_ms });
    }

    /// It stays after all.
    pub fn stays(&mut self, key: &str) {
        self.last.remove(key);
    }

    /// All that were not told yet.
    pub fn all(&self) -> Vec<Departure> {
        self.last.values().cloned().collect()
    }

    /// The departure of this moment was told; a later one of the same component was not.
    pub fn told(&mut self, key: &str, unix_ms: u64) {
        if self.last.get(key).is_some_and(|last| last.unix_ms == unix_ms) {
            self.last.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_departure_is_kept_until_it_is_told_and_a_later_one_is_another() {
        let (a, b): (Key, Key) = ("a".into(), "b".into());
        let mut departures = Departures::default();
        departures.leaves(&a, Reason::Room.into(), 1);
        departures.leaves(&b, Why::asked(Reason::Requested, "job 1"), 2);
        let seen = departures.all();
        assert_eq!(seen.iter().map(|one| &*one.key).collect::<Vec<_>>(), ["a", "b"]);
        departures.leaves(&a, Reason::Pressure.into(), 3);
        seen.iter().for_each(|one| departures.told(&one.key, one.unix_ms));
        assert_eq!(departures.all().iter().map(|one| one.why.reason).collect::<Vec<_>>(), [Reason::Pressure]);
        departures.stays("a");
        assert!(departures.all().is_empty());
    }
}
