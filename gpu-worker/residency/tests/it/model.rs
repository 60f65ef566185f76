//! Random operations on a real tier against what must hold after each of them (guarantees G7 and G8).

use std::{sync::Arc, thread, time::Duration};

use proptest::prelude::*;
use residency::{
    EntrySnapshot, KeepAlive, Lease, LoadRequest, RamTier, ResidencyError, TierSnapshot, entry::State, policy::Policy,
    policy::Verdict,
};
use tempfile::TempDir;

use crate::support::{acquire, assert_empty, bytes, request, tier_with, write};

const KEYS: usize = 6;
const BUDGET: u64 = 200_000;
/// Random operations of one case; with [`CASES`] cases more than ten thousand.
const OPS: usize = 160;
const CASES: u32 = 64;

#[derive(Debug, Clone)]
enum Op {
    Acquire(usize),
    Release(usize),
    Evict(usize),
    Protect(usize, bool),
    Rewrite(usize),
    KeepAlive(usize, bool),
    Expire,
    Limit(u64),
    Clear,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0..KEYS;
    let op = prop_oneof![
        6 => key.clone().prop_map(Op::Acquire),
        4 => key.clone().prop_map(Op::Release),
        2 => key.clone().prop_map(Op::Evict),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, on)| Op::Protect(key, on)),
        1 => key.clone().prop_map(Op::Rewrite),
        1 => (key, any::<bool>()).prop_map(|(key, on)| Op::KeepAlive(key, on)),
        1 => Just(Op::Expire),
        1 => (0..=BUDGET).prop_map(Op::Limit),
        1 => Just(Op::Limit(BUDGET)),
        1 => Just(Op::Clear),
    ];
    proptest::collection::vec(op, OPS..=OPS)
}

/// A tier, its files and the leases that the test holds.
struct World {
    dir: TempDir,
    tier: RamTier,
    leases: Vec<(usize, u64, Lease)>,
    versions: [u64; KEYS],
    /// The last decision that was looked at.
    seen: u64,
    /// Content that was there before an operation, and what was said about it.
    before: TierSnapshot,
}

fn len(key: usize) -> u64 {
    20_000 * (key as u64 + 1)
}

impl World {
    fn new(policy: Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tier = tier_with(BUDGET, policy);
        let before = tier.snapshot();
        let world = Self { dir, tier, leases: Vec::new(), versions: [0; KEYS], seen: 0, before };
        (0..KEYS).for_each(|key| drop(world.file(key)));
        world
    }

    /// Writes the file's current version: its length tells versions apart, as a real change would.
    fn file(&self, key: usize) -> LoadRequest {
        let version = self.versions[key];
        let path = self.dir.path().join(format!("{key}.{version}"));
        if !path.exists() {
            write(&self.dir, &format!("{key}.{version}"), &content(key, version));
        }
        request(&key.to_string(), &path)
    }

    /// The operation, and that it took out nothing that was leased or protected and nothing without a record.
    async fn step(&mut self, op: Op) {
        self.before = self.tier.snapshot();
        let own = match op {
            Op::Acquire(key) => Some(key.to_string()),
            _ => None,
        };
        self.apply(op).await;
        let after = self.tier.snapshot();
        let ready = |one: &&EntrySnapshot| one.state == State::Ready;
        let gone = self.before.entries.iter().filter(ready).filter(|one| {
            Some(&one.key) != own.as_ref() && !after.entries.iter().filter(ready).any(|now| now.key == one.key)
        });
        let gone: Vec<&EntrySnapshot> = gone.collect();
        assert!(gone.iter().all(|one| one.leases == 0 && !one.protected), "{gone:?}");
        let decisions = self.tier.decisions_after(self.seen);
        self.seen = decisions.last().map_or(self.seen, |last| last.seq);
        for one in gone {
            let recorded = decisions.iter().any(|decision| decision.victims().any(|row| row.key == one.key));
            assert!(recorded, "{} went without a record", one.key);
        }
        for decision in &decisions {
            let freed: u64 = decision.victims().map(|row| row.bytes).sum();
            assert_eq!(freed, decision.freed_bytes, "{decision:?}");
            assert!(decision.rows.iter().all(|row| row.score.is_finite()), "{decision:?}");
            let kept = |row: &&residency::policy::PlanRow| row.verdict != Verdict::Evict;
            let listed = |row: &residency::policy::PlanRow| self.before.entries.iter().any(|one| one.key == row.key);
            assert!(decision.rows.iter().filter(kept).all(listed), "{decision:?}");
        }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Acquire(key) => match acquire(&self.tier, self.file(key)).await {
                Ok(lease) => {
                    lease.mark(&format!("caller of {key}"));
                    self.leases.push((key, self.versions[key], lease));
                }
                Err(ResidencyError::NoRoom(shortage)) => {
                    assert!(shortage.available_bytes + shortage.would_free_bytes < shortage.needed_bytes);
                }
                Err(ResidencyError::Pressure(squeeze)) => {
                    assert!(squeeze.shortage.capacity_bytes < BUDGET && squeeze.cause == "of this test");
                    assert!(squeeze.shortage.needed_bytes <= BUDGET, "the whole budget would do: {squeeze:?}");
                }
                Err(other) => panic!("{other}"),
            },
            Op::Release(index) if index < self.leases.len() => drop(self.leases.swap_remove(index)),
            Op::Release(_) => {}
            Op::Evict(key) => self.evict(key).await,
            Op::Protect(key, on) => {
                let _ = self.tier.protect(&key.to_string(), on);
            }
            Op::Rewrite(key) => self.versions[key] += 1,
            Op::KeepAlive(key, on) => {
                let _ = self.tier.set_keep_alive(&key.to_string(), on.then_some(KeepAlive::For(Duration::ZERO)));
            }
            Op::Expire => self.expire().await,
            Op::Limit(bytes) => self.limit(bytes).await,
            Op::Clear => drop(self.tier.clear().await.unwrap()),
        }
    }

    async fn expire(&mut self) {
        self.tier.expire().await.unwrap();
        assert_eq!(self.tier.next_expiry(), None, "only what expires at once has a keep-alive here");
        for one in self.tier.snapshot().entries {
            let free = one.leases == 0 && !one.protected && one.state == State::Ready;
            assert!(!free || one.keep_alive.is_none(), "{one:?}");
        }
    }

    /// A cut takes out what it can and never what is held; what then exceeds it is held.
    async fn limit(&mut self, bytes: u64) {
        self.tier.limit(bytes, "of this test").await.unwrap();
        let now = self.tier.snapshot();
        assert_eq!(now.ledger.budget_bytes, bytes);
        let free = |one: &&EntrySnapshot| one.state == State::Ready && one.leases == 0 && !one.protected;
        assert!(now.ledger.excess_bytes() == 0 || !now.entries.iter().any(|one| free(&one)), "{now:?}");
    }

    async fn evict(&mut self, key: usize) {
        let name = key.to_string();
        let entry = self.tier.snapshot().entries.into_iter().find(|e| e.key == name && e.state == State::Ready);
        let result = self.tier.evict(&name).await;
        match entry {
            None => assert!(matches!(result, Err(ResidencyError::NotResident { .. })), "{result:?}"),
            Some(entry) if entry.leases > 0 => {
                assert!(matches!(result, Err(ResidencyError::Leased { .. })), "{result:?}");
            }
            Some(entry) if entry.protected => {
                assert!(matches!(result, Err(ResidencyError::Protected { .. })), "{result:?}");
            }
            Some(entry) => assert_eq!(result.unwrap().0, entry.bytes),
        }
    }

    fn check(&self) {
        let snapshot = self.tier.snapshot();
        let held = snapshot.ledger.used_bytes + snapshot.ledger.reserved_bytes;
        assert!(held <= BUDGET);
        let grew = held > self.before.ledger.used_bytes + self.before.ledger.reserved_bytes;
        assert!(!grew || held <= snapshot.ledger.budget_bytes, "bytes were granted beyond the limit: {snapshot:?}");
        let audit = self.tier.accounted_vs_system().unwrap();
        assert_eq!((audit.used_bytes, audit.reserved_bytes), (audit.system_bytes, 0));
        assert_eq!(audit.underflows_total, 0);
        assert_eq!(audit.used_bytes, snapshot.entries.iter().map(|e| e.bytes).sum::<u64>());
        let counted: u32 = snapshot.entries.iter().map(|e| e.leases).sum();
        assert_eq!(counted as usize, self.leases.len());
        assert_eq!(snapshot.entries.iter().map(|e| e.holders.len()).sum::<usize>(), self.leases.len());
        let mut places: Vec<u64> = snapshot.entries.iter().filter_map(|e| e.standing.as_ref()?.place).collect();
        places.sort_unstable();
        assert!(places.iter().copied().eq(1..=places.len() as u64), "{places:?}");
        for (key, version, lease) in &self.leases {
            let map = lease.map().unwrap();
            assert_eq!(map[..len(*key) as usize], content(*key, *version), "bytes of {key}");
        }
    }
}

fn content(key: usize, version: u64) -> Vec<u8> {
    bytes(len(key), version * 100 + key as u64 + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]
    #[test]
    fn g8_ledger_truth_and_g7_right_bytes_under_random_operations(ops in ops(), cost in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(if cost { Policy::Cost } else { Policy::Lru });
            for op in ops {
                world.step(op).await;
                world.check();
            }
            world.leases.clear();
            for key in 0..KEYS {
                let _ = world.tier.protect(&key.to_string(), false);
            }
            world.tier.clear().await.unwrap();
            assert_empty(&world.tier);
        });
    }
}

/// Eight threads, a budget for a third of the files: what each gets is right, and at the end all is back.
#[test]
fn g8_concurrent_callers_never_exceed_the_budget() {
    let world = Arc::new(World::new(Policy::Cost));
    thread::scope(|scope| {
        for seed in 0..8 {
            let world = world.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(hammer(&world, seed));
            });
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(world.tier.clear()).unwrap();
    assert_empty(&world.tier);
    assert!(world.tier.snapshot().entries.is_empty());
}

async fn hammer(world: &World, seed: u64) {
    for choice in bytes(300, seed + 99) {
        let key = usize::from(choice) % KEYS;
        if choice % 5 == 0 {
            let _ = world.tier.evict(&key.to_string()).await;
            continue;
        }
        match acquire(&world.tier, world.file(key)).await {
            Ok(lease) => {
                let map = lease.map().unwrap();
                assert_eq!(map[..len(key) as usize], content(key, 0));
            }
            Err(ResidencyError::NoRoom(_)) => {}
            Err(other) => panic!("{other}"),
        }
        let audit = world.tier.accounted_vs_system().unwrap();
        assert!(audit.used_bytes + audit.reserved_bytes <= BUDGET, "{audit:?}");
    }
}
