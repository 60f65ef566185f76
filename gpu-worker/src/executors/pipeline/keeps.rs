//! What is said about keeping copies, before and after a pipeline says it: so that what was said for an application that nobody
//! recorded is taken back, and nothing that anybody said since.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use residency::{Kept, Said};
use shared::{error::chain, ids::ComponentId};

use crate::context::{Agent, Device};

/// What is said of all copies on a device, and of the host's RAM.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Keeps {
    on_device: BTreeMap<(ComponentId, DateTime<Utc>), Kept>,
    in_ram: BTreeMap<String, Kept>,
}

impl Keeps {
    /// As it is now.
    pub(super) fn of(agent: &Agent, device: &Device) -> Self {
        let copies = device.resident().into_iter();
        let on_device = copies.map(|copy| ((copy.component, copy.since), device.tier.kept(&copy)));
        Self { on_device: on_device.collect(), in_ram: agent.tier.kept() }
    }

    /// What is to be said instead of what is said now: what noting changed and nobody changed since is as it was before.
    pub(super) fn before_noted(&self, noted: &Self, now: &Self) -> Self {
        Self {
            on_device: taken_back(&self.on_device, &noted.on_device, &now.on_device),
            in_ram: taken_back(&self.in_ram, &noted.in_ram, &now.in_ram),
        }
    }

    /// Says just this where something else is said.
    pub(super) fn say(&self, agent: &Agent, device: &Device) {
        let now = Self::of(agent, device);
        let copies = device.resident();
        for ((component, since), kept) in otherwise(&self.on_device, &now.on_device) {
            if let Some(copy) = copies.iter().find(|copy| copy.component == *component && copy.since == *since) {
                device.tier.say_exactly(copy, *kept);
            }
        }
        for (key, kept) in otherwise(&self.in_ram, &now.in_ram) {
            if let Err(error) = agent.tier.say_exactly(key, *kept) {
                tracing::debug!(key, error = %chain(&error), "what was said about keeping left with what it was said of");
            }
        }
    }
}

/// Of what was noted and is there now, what is to be said of it: what nobody changed since is as it was before.
fn taken_back<K: Ord + Clone>(
    before: &BTreeMap<K, Kept>,
    noted: &BTreeMap<K, Kept>,
    now: &BTreeMap<K, Kept>,
) -> BTreeMap<K, Kept> {
    let one = |(key, noted): (&K, &Kept)| {
        let now = *now.get(key)?;
        let before = before.get(key).copied().unwrap_or_default();
        let kept = Kept {
            protected: unless_since(before.protected, noted.protected, now.protected),
            keep_alive: unless_since(before.keep_alive, noted.keep_alive, now.keep_alive),
        };
        Some((key.clone(), kept))
    };
    noted.iter().filter_map(one).collect()
}

/// What was said before, unless somebody said something since, be it the same.
fn unless_since<T: PartialEq>(before: Said<T>, noted: Said<T>, now: Said<T>) -> Said<T> {
    if now == noted { before } else { now }
}

/// What is to be said of what is there and of which something else is said.
fn otherwise<'k, K: Ord>(
    wanted: &'k BTreeMap<K, Kept>,
    now: &'k BTreeMap<K, Kept>,
) -> impl Iterator<Item = (&'k K, &'k Kept)> {
    wanted.iter().filter(|(key, kept)| now.get(key).is_some_and(|now| now != *kept))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use residency::KeepAlive;

    use super::*;

    /// Statements by key: about protection, about how long.
    type Statements = BTreeMap<u8, (Option<bool>, Option<Option<KeepAlive>>)>;

    fn statements() -> impl Strategy<Value = Statements> {
        let alive = prop_oneof![
            Just(None),
            Just(Some(KeepAlive::Forever)),
            Just(Some(KeepAlive::For(Duration::from_secs(1)))),
        ];
        let one = (proptest::option::of(any::<bool>()), proptest::option::of(alive));
        proptest::collection::btree_map(0_u8..6, one, 0..6)
    }

    fn said(mut kept: BTreeMap<u8, Kept>, statements: &Statements) -> BTreeMap<u8, Kept> {
        for (key, (protected, alive)) in statements {
            let kept = kept.entry(*key).or_default();
            kept.protected = protected.map_or(kept.protected, Said::now);
            kept.keep_alive = alive.map_or(kept.keep_alive, Said::now);
        }
        kept
    }

    proptest! {
        #[test]
        fn what_was_noted_is_taken_back_and_what_was_said_since_stands_though_it_is_the_same(
            before in statements(), noting in statements(), since in statements(),
        ) {
            let before = said(BTreeMap::new(), &before);
            let noted = said(before.clone(), &noting);
            let now = said(noted.clone(), &since);
            let back = taken_back(&before, &noted, &now);
            let mut after = now.clone();
            after.extend(otherwise(&back, &now));
            for (key, found) in after {
                let was = before.get(&key).copied().unwrap_or_default();
                let (protected, alive) = since.get(&key).copied().unwrap_or_default();
                let came_since = !noted.contains_key(&key);
                prop_assert_eq!(found.protected.value, protected.unwrap_or(was.protected.value));
                prop_assert_eq!(found.keep_alive.value, alive.unwrap_or(was.keep_alive.value));
                prop_assert!(!came_since || found == now[&key]);
            }
        }
    }

    #[test]
    fn what_an_operator_kept_before_is_kept_when_the_only_pipeline_that_used_it_since_is_taken_back() {
        let kept = |value| Kept { protected: Said::now(value), keep_alive: Said::default() };
        // the application found it protected and protected it again
        let before = BTreeMap::from([("variant", kept(true))]);
        let noted = BTreeMap::from([("variant", kept(true))]);
        let back = taken_back(&before, &noted, &noted);
        // no pipeline uses it any more, so nobody keeps it
        let left = BTreeMap::from([("variant", kept(false))]);
        assert_eq!(otherwise(&back, &left).collect::<Vec<_>>(), [(&"variant", &before["variant"])]);
        assert_eq!(otherwise(&back, &BTreeMap::new()).count(), 0, "it has gone");
    }
}
