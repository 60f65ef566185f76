//! What every policy must keep, for any input, and what each is for.

use proptest::prelude::*;

use super::{reuse::Reuse, *};

const NOW: Duration = Duration::from_secs(1000);
const LRU: Rules = Rules { policy: Policy::Lru, min_age: Duration::ZERO };
const COST: Rules = Rules { policy: Policy::Cost, min_age: Duration::from_secs(30) };

fn candidate(key: &str, bytes: u64, used: u64) -> Candidate {
    Candidate {
        key: key.into(),
        bytes,
        shared: Vec::new(),
        last_used: Duration::from_secs(used),
        loaded_at: Duration::ZERO,
        hits: 0,
        reload_seconds: bytes as f64,
        reuses_per_hour: 1.0,
        reused: false,
        holders: 0,
        protected: false,
    }
}

fn worth(key: &str, bytes: u64, reload_seconds: f64, reuses_per_hour: f64) -> Candidate {
    Candidate { reload_seconds, reuses_per_hour, reused: true, ..candidate(key, bytes, 1) }
}

fn goes(rules: Rules, all: &[Candidate], need: u64) -> Vec<String> {
    select_victims(rules, all, Goal::AllOf(need), NOW).victims.iter().map(ToString::to_string).collect()
}

#[test]
fn lru_takes_the_oldest_and_only_as_many_as_needed() {
    let all = [candidate("new", 5, 9), candidate("old", 5, 1)];
    let plan = select_victims(LRU, &all, Goal::AllOf(5), NOW);
    assert_eq!(plan.victims, [Key::from("old")]);
    assert_eq!(plan.rows[1].verdict, Verdict::NotNeeded);
    assert_eq!((plan.rows[0].idle_ms, plan.rows[0].age_ms), (999_000, 1_000_000));
}

#[test]
fn nothing_goes_when_all_would_not_be_enough_unless_as_much_as_can_be_is_wanted() {
    let all = [candidate("a", 5, 1), Candidate { holders: 1, ..candidate("b", 5, 1) }];
    for rules in [LRU, COST] {
        let plan = select_victims(rules, &all, Goal::AllOf(6), NOW);
        assert!(plan.victims.is_empty());
        assert_eq!((plan.would_free_bytes, plan.rows.iter().filter(|r| r.verdict == Verdict::Futile).count()), (5, 1));
        assert_eq!(select_victims(rules, &all, Goal::UpTo(6), NOW).freed_bytes, 5);
    }
}

#[test]
fn cost_keeps_what_is_slow_to_read_often_used_or_small() {
    let base = worth("base", 10, 10.0, 6.0);
    for better in [worth("slow", 10, 40.0, 6.0), worth("often", 10, 10.0, 7.0), worth("small", 9, 10.0, 6.0)] {
        assert_eq!(goes(COST, &[better, base.clone()], 1), ["base"]);
    }
}

#[test]
fn cost_spares_what_the_dearer_victim_makes_needless() {
    let all = [worth("crumb", 1, 1.0, 0.1), worth("block", 10, 10.0, 5.0), worth("dear", 10, 90.0, 5.0)];
    assert_eq!(goes(COST, &all, 10), ["block"], "the crumb alone is not enough, the block alone is");
    assert_eq!(goes(COST, &all, 1), ["crumb"]);
    assert_eq!(goes(COST, &all, 11), ["crumb", "block"]);
}

#[test]
fn cost_lets_what_just_came_back_stay_while_anything_else_can_go() {
    let young = Candidate { loaded_at: Duration::from_secs(980), ..worth("back", 5, 0.1, 0.1) };
    let old = worth("old", 5, 50.0, 50.0);
    assert_eq!(goes(COST, &[young.clone(), old.clone()], 5), ["old"]);
    assert_eq!(goes(COST, &[young.clone(), old.clone()], 10), ["old", "back"], "it is no protection");
    let first = Candidate { reused: false, ..young };
    assert_eq!(goes(COST, &[first, old], 5), ["back"], "a scan is not protected by being recent");
}

/// A scan over many models that are used once each does not push out the ones in daily use.
#[test]
fn one_time_touches_do_not_push_out_what_is_used_again() {
    let mut reuse = Reuse::default();
    let at = |seconds: u64| Duration::from_secs(seconds);
    let daily: Vec<Key> = (0..5).map(|n| format!("daily{n}").into()).collect();
    for round in 0..10 {
        daily.iter().for_each(|key| reuse.touch(key, at(round * 60)));
    }
    let scanned: Vec<Key> = (0..200).map(|n| format!("scan{n}").into()).collect();
    for (number, key) in scanned.iter().enumerate() {
        let now = at(560 + number as u64);
        reuse.touch(key, now);
        let rates = daily.iter().chain([key]).map(|key| (key.to_string(), reuse.per_hour(key, now)));
        let all: Vec<Candidate> = rates
            .map(|(key, rate)| Candidate { reused: reuse.was_reused(&key), ..worth(&key, 10, 1.0, rate) })
            .collect();
        assert_eq!(goes(COST, &all, 10), [key.to_string()]);
    }
}

#[test]
fn expectation_follows_the_gaps_and_decays_with_idleness() {
    let mut reuse = Reuse::default();
    let at = |seconds: u64| Duration::from_secs(seconds);
    let (often, seldom): (Key, Key) = ("often".into(), "seldom".into());
    (0..20).for_each(|n| reuse.touch(&often, at(n * 10)));
    [0, 100, 200].into_iter().for_each(|n| reuse.touch(&seldom, at(n)));
    assert!((reuse.per_hour(&often, at(190)) - 360.0).abs() < 1e-6);
    assert!((reuse.per_hour(&seldom, at(200)) - 36.0).abs() < 1e-6);
    assert!(reuse.per_hour(&often, at(100_000)) < reuse.per_hour(&seldom, at(200)));
    assert_eq!(reuse.per_hour("unknown", at(1)), 0.0);
    reuse.touch(&seldom, at(200));
    assert!((reuse.per_hour(&seldom, at(200)) - 36.0).abs() < 1e-6, "callers at once are one use");
}

#[test]
fn the_history_is_bounded_and_forgets_the_longest_unused() {
    let mut reuse = Reuse::default();
    for number in 0..20_000u64 {
        reuse.touch(&number.to_string().into(), Duration::from_secs(number * 2));
    }
    assert!(reuse.len() <= 4096 && !reuse.is_empty());
    assert!(reuse.per_hour("19999", Duration::from_secs(40_000)) > 0.0);
    assert_eq!(reuse.per_hour("0", Duration::from_secs(40_000)), 0.0);
    reuse.evicted("19999", Duration::from_secs(40_000));
    assert_eq!(reuse.take_evicted("19999", Duration::from_secs(40_007)), Some(Duration::from_secs(7)));
    assert_eq!(reuse.take_evicted("19999", Duration::from_secs(40_008)), None);
}

/// Any float that a measurement could come out as, also those that it could not.
fn figure() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => 0.0..1000.0f64,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-1.0),
        1 => Just(f64::MAX),
    ]
}

/// Bytes of memory that some of the candidates may hold together.
const TOGETHER: [u64; 3] = [7, 13, 29];

/// Gives candidates what they hold together: who holds what, and what somebody else holds as well.
fn share(all: &mut [Candidate], who: &[[bool; 3]], beside: [bool; 3]) {
    let has = |one: usize, memory: usize| who.get(one).is_some_and(|who| who[memory]);
    for (memory, bytes) in TOGETHER.into_iter().enumerate() {
        let holders = (0..all.len()).filter(|one| has(*one, memory)).count() as u32 + u32::from(beside[memory]);
        for (_, one) in all.iter_mut().enumerate().filter(|(at, _)| has(*at, memory)) {
            one.shared.push(SharedMemory { memory: memory as u64, bytes, holders });
        }
    }
}

/// Bytes that come back when exactly these go.
fn come_back(all: &[Candidate], gone: impl Fn(&Candidate) -> bool) -> u64 {
    let own: u64 = all.iter().filter(|one| gone(one)).map(|one| one.bytes).sum();
    let last = |memory: usize| {
        let holds = |one: &&Candidate| one.shared.iter().any(|shared| shared.memory == memory as u64);
        let holders = all.iter().find(holds).map_or(0, |one| {
            one.shared.iter().find(|shared| shared.memory == memory as u64).map_or(0, |shared| shared.holders)
        });
        let of_it: Vec<_> = all.iter().filter(holds).collect();
        !of_it.is_empty() && of_it.len() as u32 == holders && of_it.into_iter().all(&gone)
    };
    own + TOGETHER.into_iter().enumerate().filter(|(memory, _)| last(*memory)).map(|(_, bytes)| bytes).sum::<u64>()
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let together = (proptest::collection::vec(any::<[bool; 3]>(), 0..12), any::<[bool; 3]>());
    (own_candidates(), together).prop_map(|(mut all, (who, beside))| {
        share(&mut all, &who, beside);
        all
    })
}

fn own_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0u64..50, 0u64..4, 990u64..1000, 0u32..2, any::<bool>(), figure(), figure(), any::<bool>());
    proptest::collection::vec(one, 0..20).prop_map(|raw| {
        let each = raw.into_iter().enumerate();
        each.map(|(i, (bytes, used, loaded, holders, protected, reload_seconds, reuses_per_hour, reused))| Candidate {
            loaded_at: Duration::from_secs(loaded),
            holders,
            protected,
            reload_seconds,
            reuses_per_hour,
            reused,
            ..candidate(&format!("k{i}"), bytes, used)
        })
        .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn held_entries_never_go_and_the_order_of_the_input_does_not_matter(
        mut all in candidates(), need in 0u64..300, cost in any::<bool>(), best_effort in any::<bool>(),
    ) {
        let rules = if cost { COST } else { LRU };
        let goal = if best_effort { Goal::UpTo(need) } else { Goal::AllOf(need) };
        let plan = select_victims(rules, &all, goal, NOW);
        all.reverse();
        prop_assert_eq!(format!("{:?}", plan), format!("{:?}", select_victims(rules, &all, goal, NOW)));
        let find = |key: &Key| all.iter().find(|c| &c.key == key).unwrap();
        prop_assert!(plan.victims.iter().map(find).all(|c| c.holders == 0 && !c.protected));
        let goes = |one: &Candidate| plan.victims.contains(&one.key);
        prop_assert_eq!(plan.freed_bytes, come_back(&all, goes), "what is told is what comes");
        prop_assert_eq!(plan.rows.len(), all.len());
        prop_assert!(plan.rows.iter().all(|row| row.score.is_finite() && row.score >= 0.0));
        if best_effort {
            prop_assert!(plan.freed_bytes >= need.min(plan.would_free_bytes));
        } else {
            prop_assert!(plan.freed_bytes >= need || plan.victims.is_empty());
            prop_assert_eq!(plan.victims.is_empty() && need > 0, plan.would_free_bytes < need);
        }
        if cost && plan.freed_bytes >= need {
            let without = |key: &Key| come_back(&all, |one| goes(one) && one.key != *key);
            prop_assert!(plan.victims.iter().all(|key| without(key) < need), "a victim could have been spared: {:?}", plan);
        }
        let idle = |key: &Key| come_back(&all, |one| goes(one) && one.key != *key) == plan.freed_bytes;
        prop_assert!(!plan.victims.iter().any(idle), "gone in vain: {:?}", plan);
    }

    #[test]
    fn expectations_are_finite_whatever_the_uses_are(
        uses in proptest::collection::vec((0usize..5, 0u64..10_000), 0..200), later in 0u64..100_000,
    ) {
        let mut reuse = Reuse::default();
        let mut now = Duration::ZERO;
        for (key, pause) in uses {
            now += Duration::from_millis(pause);
            reuse.touch(&key.to_string().into(), now);
        }
        for key in 0..6 {
            let rate = reuse.per_hour(&key.to_string(), now + Duration::from_secs(later));
            prop_assert!(rate.is_finite() && rate >= 0.0);
        }
    }

    #[test]
    fn what_is_left_when_some_went_is_planned_as_if_they_had_never_been(all in candidates(), went in 0usize..6, need in 0u64..300) {
        let gone: Vec<Key> = all.iter().take(went).map(|one| one.key.clone()).collect();
        let before = come_back(&all, |one| gone.contains(&one.key));
        let rest = shared::left(all.clone(), |one| gone.contains(&one.key));
        prop_assert_eq!(rest.len(), all.len() - gone.len());
        let plan = select_victims(COST, &rest, Goal::UpTo(need), NOW);
        let both = come_back(&all, |one| gone.contains(&one.key) || plan.victims.contains(&one.key));
        prop_assert_eq!(plan.freed_bytes, both - before);
    }
}
