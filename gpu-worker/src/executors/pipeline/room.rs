//! Variants in the room that there would be, one after the other as they are made: beside their bases, else in their place where
//! nothing keeps these. What is tried, and what goes for it, is decided by what decides when they are made.

use std::{collections::BTreeSet, time::Duration};

use residency::policy::{
    Candidate, Goal, Rules, select_victims,
    shared::{Going, joined, left, lend},
};
use serde_json::Value;
use shared::ids::ComponentId;

use crate::managers::variants::{Path, Try};

/// What has to hold when a base is to be converted.
const CONDITION: &str =
    "nothing that may go is left, and nobody else uses, keeps or has attached to the base's copy when it is made";

/// A variant that an application would make or find.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// What the base is used as.
    pub(super) kind: String,
    /// The base.
    pub(super) base: ComponentId,
    /// How it would come to be there.
    pub(super) path: Path,
    /// Bytes of what changes.
    pub(super) bytes: u64,
    /// Bytes of it that would be taken over from an earlier variant.
    pub(super) taken_over: u64,
    /// Bytes of these in memory that both would hold.
    pub(super) held: u64,
    /// That variant.
    pub(super) from: Option<ComponentId>,
    /// Tensors that change.
    pub(super) tensors: usize,
    /// Seconds that it would take.
    pub(super) seconds: f64,
    /// The same where nothing can be taken over.
    pub(super) seconds_alone: f64,
    /// What the bound on variants takes off before it is made.
    pub(super) trimmed: Vec<ComponentId>,
    /// Why its base's copy could not be converted, where that were needed.
    pub(super) base_stays: Option<&'static str>,
}

impl Change {
    /// It is there already.
    pub(super) fn is_there(&self) -> bool {
        self.path == Path::Cached
    }

    /// As a job's result shows it.
    pub(super) fn view(&self) -> Value {
        let Self { kind, base, path, bytes, taken_over, held, tensors, seconds, .. } = self;
        let mut view = serde_json::json!({
            "component": kind, "base": base, "path": path.as_str(), "bytes": bytes, "seconds": seconds,
            "tensors": tensors, "taken_over_bytes": taken_over, "held_bytes": held,
        });
        if *path == Path::InPlace {
            view["condition"] = CONDITION.into();
        }
        if let Some(why) = self.base_stays {
            view["base_stays"] = why.into();
        }
        view
    }

    /// It is made so.
    fn made(&mut self, tried: Try) {
        self.path = tried.path(self.taken_over > 0);
        if tried != Try::Delta {
            (self.taken_over, self.held, self.seconds) = (0, 0, self.seconds_alone);
        }
    }
}

/// The room of a device, and what may go for more.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes that are free.
    pub(super) free_bytes: u64,
    /// The copies on it.
    pub(super) candidates: Vec<Candidate>,
    /// How what goes is chosen.
    pub(super) rules: Rules,
    /// When.
    pub(super) now: Duration,
    /// What has to go, with the bytes that come back with it.
    pub(super) going: Vec<(Candidate, u64)>,
}

impl Space {
    /// Takes so many bytes; where they are not free, what the policy takes goes for them, or nothing where that is not enough.
    ///
    /// # Errors
    /// The bytes that are missing.
    fn take(&mut self, bytes: u64, stays: impl Fn(&Candidate) -> bool) -> Result<(), u64> {
        let need = bytes.saturating_sub(self.free_bytes);
        let mut may_go = self.candidates.clone();
        may_go.retain(|one| !stays(one));
        let plan = select_victims(self.rules, &may_go, Goal::AllOf(need), self.now);
        if need > plan.would_free_bytes {
            return Err(need - plan.would_free_bytes);
        }
        let mut gone = Going::default();
        for victim in plan.victims.iter().filter_map(|key| may_go.iter().find(|one| one.key == *key)) {
            self.going.push((victim.clone(), gone.take(victim.holding())));
        }
        self.candidates = left(std::mem::take(&mut self.candidates), |one| plan.victims.contains(&one.key));
        self.free_bytes = self.free_bytes.saturating_add(plan.freed_bytes).saturating_sub(bytes);
        Ok(())
    }

    /// These go, if they have not gone for room before.
    fn trim(&mut self, trimmed: &[ComponentId]) {
        let goes = |one: &Candidate| one.key.parse().is_ok_and(|id| trimmed.contains(&id));
        let mut gone = Going::default();
        let bytes = self.candidates.iter().filter(|one| goes(one)).map(|one| gone.take(one.holding()));
        self.free_bytes = bytes.fold(self.free_bytes, u64::saturating_add);
        self.candidates = left(std::mem::take(&mut self.candidates), goes);
    }

    /// What there is is taken, and not enough: nothing of it is left for anything else.
    fn drain(&mut self, stays: impl Fn(&Candidate) -> bool) {
        self.free_bytes = 0;
        self.candidates.retain(stays);
    }

    /// So many bytes of this one are held by what was made now as well: they do not come back with it.
    fn lend(&mut self, from: ComponentId, bytes: u64, number: usize) {
        let key = from.to_string();
        let Some(one) = self.candidates.iter_mut().find(|one| *one.key == *key) else { return };
        // slabs are numbered from the other end
        let memory = u64::MAX - u64::try_from(number).unwrap_or(0);
        let lent = lend(&mut one.bytes, &mut one.shared, bytes, memory);
        self.candidates.iter_mut().for_each(|one| joined(&mut one.shared, &lent));
    }
}

/// Loads so many bytes, then makes the changes. `takes_part` says what stays for it in any case, `kept_by` why a base is not
/// converted. The bytes that are missing all the same.
pub(super) fn made(
    space: &mut Space,
    load_bytes: u64,
    changes: &mut [Change],
    takes_part: impl Fn(&Candidate) -> bool,
    kept_by: impl Fn(ComponentId) -> Option<&'static str>,
) -> u64 {
    let mut short = space.take(load_bytes, &takes_part).err().unwrap_or(0);
    if short > 0 {
        space.drain(&takes_part);
    }
    for (number, change) in changes.iter_mut().enumerate().filter(|(_, change)| !change.is_there()) {
        space.trim(&change.trimmed);
        let mut tried = Try::first(change.from.is_some());
        loop {
            // only what both hold needs no room
            let bytes = match tried {
                Try::Delta => change.bytes.saturating_sub(change.held),
                Try::Full => change.bytes,
                Try::InPlace => 0,
            };
            let spared: BTreeSet<String> =
                change.from.iter().filter(|_| tried == Try::Delta).map(ToString::to_string).collect();
            let Err(missing) = space.take(bytes, |one| takes_part(one) || spared.contains(&*one.key)) else {
                change.made(tried);
                if let Some(from) = change.from.filter(|_| tried == Try::Delta) {
                    space.lend(from, change.held, number);
                }
                break;
            };
            let base_stays = kept_by(change.base);
            let Some(next) = tried.next(base_stays) else {
                (change.base_stays, short) = (base_stays, short.saturating_add(missing));
                space.drain(&takes_part);
                break;
            };
            tried = next;
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use residency::policy::{Policy, shared::SharedMemory};

    use super::*;
    use crate::optimize::properties;

    fn change(kind: &str, bytes: u64, from: Option<(&Candidate, u64)>) -> Change {
        Change {
            kind: kind.to_owned(),
            base: ComponentId::generate(),
            path: if from.is_some() { Path::Delta } else { Path::Full },
            bytes,
            taken_over: from.map_or(0, |(_, bytes)| bytes),
            held: from.map_or(0, |(_, bytes)| bytes),
            from: from.map(|(one, _)| one.key.parse().unwrap()),
            tensors: 1,
            seconds: 1.0,
            seconds_alone: 2.0,
            trimmed: Vec::new(),
            base_stays: None,
        }
    }

    fn candidate(bytes: u64) -> Candidate {
        properties::candidate(&ComponentId::generate().to_string(), bytes)
    }

    fn space(free_bytes: u64, candidates: &[Candidate]) -> Space {
        let rules = Rules { policy: Policy::Cost, min_age: Duration::ZERO };
        Space { free_bytes, candidates: candidates.to_vec(), rules, now: Duration::ZERO, going: Vec::new() }
    }

    fn gone(space: &Space) -> Vec<(&str, u64)> {
        space.going.iter().map(|(one, bytes)| (&*one.key, *bytes)).collect()
    }

    #[test]
    fn what_is_taken_over_needs_no_room_and_its_variant_goes_only_where_it_must() {
        let (earlier, other) = (candidate(45), candidate(5));
        let all = [earlier.clone(), other.clone()];
        let tried = |free: u64, all: &[Candidate], kept: Option<&'static str>| {
            let mut changes = [change("unet", 50, Some((&earlier, 30)))];
            let mut space = space(free, all);
            let short = made(&mut space, 5, &mut changes, |_| false, |_| kept);
            let gone: Vec<u64> = space.going.iter().map(|(_, bytes)| *bytes).collect();
            (changes[0].path, changes[0].taken_over, gone, short)
        };
        assert_eq!(tried(25, &all, None), (Path::Delta, 30, vec![], 0));
        assert_eq!(tried(21, &all, None), (Path::Delta, 30, vec![5], 0), "something else goes for it");
        assert_eq!(tried(17, &all, None), (Path::Full, 0, vec![45], 0), "the earlier one goes, all is computed");
        assert_eq!(tried(5, &[], None), (Path::InPlace, 0, vec![], 0));
        assert_eq!(tried(5, &all, None), (Path::Full, 0, vec![45, 5], 0));
        let used = Candidate { holders: 1, ..earlier.clone() };
        assert_eq!(
            tried(5, &[used.clone(), other.clone()], None),
            (Path::InPlace, 0, vec![], 0),
            "nothing goes in vain"
        );
        assert_eq!(tried(5, &[used, other], Some("used")).3, 45);
        // what lies beside something else is copied, and takes room
        let mut changes = [Change { held: 10, ..change("unet", 50, Some((&earlier, 30))) }];
        assert_eq!(made(&mut space(45, &[]), 5, &mut changes, |_| false, |_| Some("used")), 0);
        assert_eq!((changes[0].path, changes[0].taken_over), (Path::Delta, 30));
        let mut changes = [Change { held: 9, ..change("unet", 50, Some((&earlier, 30))) }];
        assert_eq!(made(&mut space(45, &[]), 5, &mut changes, |_| false, |_| Some("used")), 10);
    }

    #[test]
    fn variants_are_made_one_after_the_other_in_what_the_loads_left() {
        let all = || [change("a", 20, None), change("b", 30, None)];
        let paths = |changes: &[Change]| changes.iter().map(|change| change.path).collect::<Vec<_>>();
        for (free, wanted) in
            [(60, [Path::Full, Path::Full]), (59, [Path::Full, Path::InPlace]), (29, [Path::InPlace, Path::InPlace])]
        {
            let mut changes = all();
            assert_eq!(made(&mut space(free, &[]), 10, &mut changes, |_| false, |_| None), 0);
            assert_eq!(paths(&changes), wanted, "{free}");
            assert_eq!(changes[1].view().get("condition").is_some(), wanted[1] == Path::InPlace);
        }
        // what a later one would need is not taken from an earlier one
        let mut changes = all();
        let kept = changes[1].base;
        let stays = |base: ComponentId| (base == kept).then_some("used");
        assert_eq!(made(&mut space(55, &[]), 10, &mut changes, |_| false, stays), 5);
        assert_eq!(changes[1].view()["base_stays"].as_str(), Some("used"));
        let both = |_: ComponentId| Some("used");
        let mut changes = [change("a", 50, None), change("b", 50, None)];
        assert_eq!(made(&mut space(20, &[]), 0, &mut changes, |_| false, both), 80, "what is there is there once");
        assert_eq!(made(&mut space(0, &[candidate(20)]), 0, &mut changes, |_| false, both), 80);
        assert_eq!(made(&mut space(5, &[]), 10, &mut changes, |_| false, both), 105);
        // what does not even load is missing, too
        assert_eq!(made(&mut space(5, &[]), 10, &mut all(), |_| false, |_| None), 5);
    }

    #[test]
    fn what_the_bound_takes_off_is_room_from_its_wish_on() {
        let trimmed = Candidate { holders: 1, ..candidate(50) };
        for (at, wanted) in [(0, [Path::Full, Path::InPlace]), (1, [Path::InPlace, Path::Full])] {
            let mut changes = [change("a", 50, None), change("b", 50, None)];
            changes[at].trimmed.push(trimmed.key.parse().unwrap());
            let mut space = space(0, std::slice::from_ref(&trimmed));
            assert_eq!(made(&mut space, 0, &mut changes, |_| false, |_| None), 0);
            assert_eq!(changes.map(|change| change.path), wanted);
        }
    }

    #[test]
    fn what_was_taken_over_does_not_come_back_with_what_it_was_taken_over_from() {
        let earlier = candidate(100);
        let tried = |bytes: u64| {
            let mut changes = [change("text_encoder", 100, Some((&earlier, 90))), change("unet", bytes, None)];
            let mut space = space(10, std::slice::from_ref(&earlier));
            let short = made(&mut space, 0, &mut changes, |_| false, |_| Some("used"));
            (changes.map(|change| change.path), gone(&space).iter().map(|(_, bytes)| *bytes).sum::<u64>(), short)
        };
        assert_eq!(tried(10), ([Path::Delta, Path::Full], 10, 0), "what it alone holds comes back");
        assert_eq!(tried(95), ([Path::Delta, Path::Full], 0, 85));
    }

    #[test]
    fn memory_that_others_hold_comes_back_with_the_last_of_them() {
        let shared = SharedMemory { memory: 1, bytes: 50, holders: 2 };
        let [one, two] = [1, 2].map(|bytes| Candidate { shared: vec![shared], ..candidate(bytes) });
        let mut changes = [change("a", 52, None)];
        let mut space = space(0, &[one.clone(), two.clone()]);
        assert_eq!(made(&mut space, 0, &mut changes, |_| false, |_| None), 0);
        assert_eq!(gone(&space).iter().map(|(_, bytes)| bytes).sum::<u64>(), 53);
        assert_eq!(changes[0].path, Path::Full);
        let mut changes = [change("a", 52, None)];
        let mut space = self::space(0, &[one.clone(), two]);
        assert_eq!(made(&mut space, 0, &mut changes, |found| found.key == one.key, |_| None), 0);
        assert_eq!((gone(&space), changes[0].path), (vec![], Path::InPlace));
    }
}
