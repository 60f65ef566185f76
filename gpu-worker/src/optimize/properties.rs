//! What holds for every plan, over random tiers.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use residency::policy::{Candidate, Policy, Rules, shared::SharedMemory};
use shared::ids::ComponentId;

use super::plan::{Action, Piece, Place, plan};

const NOW: Duration = Duration::from_secs(1000);

fn rules(policy: Policy) -> Rules {
    Rules { policy, min_age: Duration::from_secs(30) }
}

/// Something that was used once, when time began, and that nobody holds.
pub(crate) fn candidate(key: &str, bytes: u64) -> Candidate {
    Candidate {
        key: key.into(),
        bytes,
        shared: Vec::new(),
        last_used: Duration::ZERO,
        loaded_at: Duration::ZERO,
        hits: 1,
        reload_seconds: 1.0,
        reuses_per_hour: 1.0,
        reused: false,
        holders: 0,
        protected: false,
    }
}

fn piece(place: Place, component: ComponentId, key: usize, bytes: u64) -> Piece {
    let candidate = Candidate { last_used: Duration::from_secs(1), ..candidate(&key.to_string(), bytes) };
    Piece { place, component, candidate, disk_seconds: 10.0, in_scope: true }
}

/// Bytes that some copies on the device hold together.
const TOGETHER: u64 = 60;

fn device() -> Place {
    Place::Device("a/cpu:0".into())
}

/// (component of a few, on the device, bytes, holders, protected, reload seconds, reuses, (last use, in scope))
type Drawn = (usize, bool, u64, u32, bool, f64, f64, (u64, bool));

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let one = (
        0usize..8,
        any::<bool>(),
        1u64..100,
        prop_oneof![4 => Just(0u32), 1 => Just(1u32)],
        prop::bool::weighted(0.2),
        0.0f64..50.0,
        0.0f64..20.0,
        (0u64..1000, prop::bool::weighted(0.8)),
    );
    prop::collection::vec(one, 0..25)
}

fn pieces(drawn: Vec<Drawn>) -> Vec<Piece> {
    let ids: Vec<ComponentId> = (0..8).map(|_| ComponentId::generate()).collect();
    let made = |(
        index,
        (component, on_device, bytes, holders, protected, reload_seconds, reuses, (used, in_scope)),
    ): (usize, Drawn)| {
        let mut made = piece(if on_device { device() } else { Place::Ram }, ids[component], index, bytes);
        made.candidate = Candidate {
            holders,
            protected,
            reload_seconds,
            reuses_per_hour: reuses,
            last_used: Duration::from_secs(used),
            ..made.candidate
        };
        Piece { in_scope, ..made }
    };
    let mut made: Vec<Piece> = drawn.into_iter().enumerate().map(made).collect();
    let shares = |one: &Piece| one.place == device() && one.candidate.last_used.as_secs().is_multiple_of(3);
    let holders = made.iter().filter(|one| shares(one)).count() as u32;
    let shared = SharedMemory { memory: 1, bytes: TOGETHER, holders };
    made.iter_mut().filter(|one| shares(one)).for_each(|one| one.candidate.shared.push(shared));
    made
}

/// Bytes that come back when exactly these go.
fn come_back(pieces: &[Piece], gone: impl Fn(usize) -> bool) -> u64 {
    let own: u64 = (0..pieces.len()).filter(|index| gone(*index)).map(|index| pieces[index].candidate.bytes).sum();
    let mut holders = (0..pieces.len()).filter(|index| !pieces[*index].candidate.shared.is_empty()).peekable();
    own + if holders.peek().is_some() && holders.all(gone) { TOGETHER } else { 0 }
}

fn may_go(piece: &Piece) -> bool {
    piece.in_scope && piece.candidate.holders == 0 && !piece.candidate.protected
}

proptest! {
    #[test]
    fn a_plan_reaches_its_goal_or_says_by_how_much_not(drawn in drawn(), need in 0u64..1500, lru in any::<bool>()) {
        let pieces = pieces(drawn);
        let made = plan(rules(if lru { Policy::Lru } else { Policy::Cost }), &pieces, need, NOW);
        let touched: BTreeSet<usize> = made.steps.iter().map(|step| step.piece).collect();
        prop_assert_eq!(touched.len(), made.steps.len(), "nothing goes twice");
        let sum = come_back(&pieces, |index| touched.contains(&index));
        prop_assert_eq!(sum, made.frees_bytes);
        prop_assert_eq!(sum, made.steps.iter().map(|step| step.bytes).sum::<u64>());
        prop_assert_eq!(made.short_bytes, need.saturating_sub(sum));
        for index in &touched {
            let one = &pieces[*index];
            prop_assert!(may_go(one), "in use, protected or elsewhere: {one:?}");
        }
        let evictable = come_back(&pieces, |index| may_go(&pieces[index]));
        prop_assert_eq!(made.short_bytes > 0, evictable < need, "short only when everything that may go is not enough");
        for step in &made.steps {
            let without = come_back(&pieces, |index| touched.contains(&index) && index != step.piece);
            prop_assert!(without < need && without < sum, "the goal can do without {step:?}");
        }
    }

    #[test]
    fn the_action_says_what_is_left(drawn in drawn(), need in 0u64..1500) {
        let pieces = pieces(drawn);
        let made = plan(rules(Policy::Cost), &pieces, need, NOW);
        let stays = |index: usize| !made.steps.iter().any(|step| step.piece == index);
        for step in &made.steps {
            let gone = &pieces[step.piece];
            let left: Vec<&Place> = pieces.iter().enumerate()
                .filter(|(index, one)| stays(*index) && one.component == gone.component).map(|(_, one)| &one.place).collect();
            let expected = match (&gone.place, left.contains(&&gone.place), left.is_empty()) {
                (_, true, _) => Action::DropDuplicate,
                (_, false, true) => Action::Evict,
                (Place::Ram, false, false) => Action::DropRamCopy,
                (Place::Device(_), false, false) => Action::Demote,
            };
            prop_assert_eq!(step.action, expected);
        }
    }
}

#[test]
fn second_copies_go_before_anything_that_serves() {
    let (twin, other) = (ComponentId::generate(), ComponentId::generate());
    let mut dear = piece(device(), twin, 0, 10);
    dear.candidate.reload_seconds = 100.0;
    let mut twin_of_it = piece(device(), twin, 1, 10);
    twin_of_it.candidate.reload_seconds = 100.0;
    let pieces = [piece(device(), other, 2, 10), dear, twin_of_it];
    let made = plan(rules(Policy::Cost), &pieces, 10, NOW);
    assert_eq!(made.steps.len(), 1);
    assert_eq!((made.steps[0].action, pieces[made.steps[0].piece].component), (Action::DropDuplicate, twin));
}

#[test]
fn of_two_copies_the_cheaper_goes_and_the_last_one_counts_the_disk() {
    let [a, b] = std::array::from_fn(|_| ComponentId::generate());
    // a: on the device and in RAM; b: in RAM only, and a little cheaper than a's last copy
    let mut on_device = piece(device(), a, 0, 10);
    on_device.candidate.reload_seconds = 0.1;
    let mut in_ram = piece(Place::Ram, a, 1, 10);
    in_ram.candidate.reload_seconds = 5.0;
    let mut alone = piece(Place::Ram, b, 2, 10);
    alone.candidate.reload_seconds = 6.0;
    let pieces = [on_device, in_ram, alone];
    let made = plan(rules(Policy::Cost), &pieces, 10, NOW);
    assert_eq!((made.steps.len(), made.steps[0].action, made.steps[0].piece), (1, Action::Demote, 0));
    let made = plan(rules(Policy::Cost), &pieces, 20, NOW);
    assert_eq!(made.steps.iter().map(|step| step.piece).collect::<Vec<_>>(), [0, 1], "{made:?}");
    assert!(made.steps.iter().all(|step| step.action == Action::Evict), "nothing of it is left: {made:?}");
    let made = plan(rules(Policy::Cost), &pieces, 30, NOW);
    assert_eq!((made.steps.len(), made.short_bytes), (3, 0));
}
