//! What is said about keeping copies, before and after a pipeline says it: so that what was said for an application that nobody
//! recorded is taken back, and nothing that anybody said since.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use residency::{KeepAlive, entry::State};
use shared::{error::chain, ids::ComponentId};

use crate::context::{Agent, Device};

/// What is said of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kept {
    /// The operator's keep.
    pub(super) protected: bool,
    /// How long it stays after its last use.
    pub(super) keep_alive: Option<KeepAlive>,
}

/// What is said of all copies on a device, and of the host's RAM.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Keeps {
    on_device: BTreeMap<(ComponentId, DateTime<Utc>), Kept>,
    in_ram: BTreeMap<String, Kept>,
}

impl Keeps {
    /// As it is now.
    pub(super) fn of(agent: &Agent, device: &Device) -> Self {
        let on_device = device.resident().into_iter().map(|copy| {
            let (protected, keep_alive) = device.tier.said(&copy);
            ((copy.component, copy.since), Kept { protected, keep_alive })
        });
        let in_ram = agent.tier.snapshot().entries.into_iter().filter(|entry| entry.state == State::Ready);
        let in_ram = in_ram.map(|entry| (entry.key, Kept { protected: entry.protected, keep_alive: entry.keep_alive }));
        Self { on_device: on_device.collect(), in_ram: in_ram.collect() }
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
                device.tier.say_exactly(copy, kept.protected, kept.keep_alive);
            }
        }
        for (key, kept) in otherwise(&self.in_ram, &now.in_ram) {
            let said = agent.tier.protect(key, kept.protected);
            if let Err(error) = said.and_then(|()| agent.tier.set_keep_alive(key, kept.keep_alive)) {
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
        let protected = if now.protected == noted.protected { before.protected } else { now.protected };
        let keep_alive = if now.keep_alive == noted.keep_alive { before.keep_alive } else { now.keep_alive };
        Some((key.clone(), Kept { protected, keep_alive }))
    };
    noted.iter().filter_map(one).collect()
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

    use super::*;

    fn kept() -> impl Strategy<Value = BTreeMap<u8, Kept>> {
        let alive = prop_oneof![
            Just(None),
            Just(Some(KeepAlive::Forever)),
            Just(Some(KeepAlive::For(Duration::from_secs(1)))),
        ];
        let one = (any::<bool>(), alive).prop_map(|(protected, keep_alive)| Kept { protected, keep_alive });
        proptest::collection::btree_map(0_u8..6, one, 0..6)
    }

    proptest! {
        #[test]
        fn what_was_noted_is_taken_back_and_what_was_said_since_stands(
            before in kept(), noted in kept(), since in kept(),
        ) {
            // what somebody said after it was noted; the rest is as it was noted
            let mut now = noted.clone();
            now.extend(since.clone());
            let back = taken_back(&before, &noted, &now);
            let mut after = now.clone();
            after.extend(otherwise(&back, &now));
            for (key, found) in &after {
                let (was, seen) = (before.get(key).copied().unwrap_or_default(), now[key]);
                match noted.get(key) {
                    None => prop_assert_eq!(*found, seen, "it came since"),
                    Some(noted) => {
                        let protected = if seen.protected == noted.protected { was.protected } else { seen.protected };
                        let alive = if seen.keep_alive == noted.keep_alive { was.keep_alive } else { seen.keep_alive };
                        prop_assert_eq!((found.protected, found.keep_alive), (protected, alive));
                    }
                }
            }
        }
    }
    #[test]
    fn what_an_operator_kept_before_is_kept_when_the_only_pipeline_that_used_it_since_is_taken_back() {
        let protected = Kept { protected: true, keep_alive: None };
        // the application found it protected and protected it again
        let noted = BTreeMap::from([("variant", protected)]);
        let back = taken_back(&noted, &noted, &noted);
        // no pipeline uses it any more, so nobody keeps it
        let left = BTreeMap::from([("variant", Kept::default())]);
        assert_eq!(otherwise(&back, &left).collect::<Vec<_>>(), [(&"variant", &protected)]);
        assert_eq!(otherwise(&back, &noted).count(), 0, "nothing is said twice");
        assert_eq!(otherwise(&back, &BTreeMap::new()).count(), 0, "it has gone");
    }
}
