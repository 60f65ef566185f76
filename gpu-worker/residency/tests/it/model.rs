//! Random operations on a real tier against what must hold after each of them (guarantees G7 and G8).

use std::{sync::Arc, thread};

use proptest::prelude::*;
use residency::{Lease, LoadRequest, RamTier, ResidencyError, entry::State};
use tempfile::TempDir;

use crate::support::{acquire, assert_empty, bytes, request, tier, write};

const KEYS: usize = 6;
const BUDGET: u64 = 200_000;

#[derive(Debug, Clone)]
enum Op {
    Acquire(usize),
    Release(usize),
    Evict(usize),
    Protect(usize, bool),
    Rewrite(usize),
    Clear,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0..KEYS;
    let op = prop_oneof![
        6 => key.clone().prop_map(Op::Acquire),
        4 => key.clone().prop_map(Op::Release),
        2 => key.clone().prop_map(Op::Evict),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, on)| Op::Protect(key, on)),
        1 => key.prop_map(Op::Rewrite),
        1 => Just(Op::Clear),
    ];
    proptest::collection::vec(op, 1..40)
}

/// A tier, its files and the leases that the test holds.
struct World {
    dir: TempDir,
    tier: RamTier,
    leases: Vec<(usize, u64, Lease)>,
    versions: [u64; KEYS],
}

fn len(key: usize) -> u64 {
    20_000 * (key as u64 + 1)
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self { dir, tier: tier(BUDGET), leases: Vec::new(), versions: [0; KEYS] };
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

    /// Ready entries that only their own key's caller may take out.
    fn held(&self) -> Vec<String> {
        let entries = self.tier.snapshot().entries.into_iter();
        entries.filter(|e| e.state == State::Ready && (e.leases > 0 || e.protected)).map(|e| e.key).collect()
    }

    /// The operation, and that it took out nothing that was leased or protected.
    async fn step(&mut self, op: Op) {
        let (held, own) = match op {
            Op::Acquire(key) => (self.held(), Some(key.to_string())),
            Op::Clear | Op::Evict(_) => (self.held(), None),
            _ => (Vec::new(), None),
        };
        self.apply(op).await;
        let entries = self.tier.snapshot().entries;
        let ready = |key: &String| entries.iter().any(|e| e.key == *key && e.state == State::Ready);
        assert!(held.iter().filter(|key| Some(*key) != own.as_ref()).all(ready), "{held:?}");
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Acquire(key) => match acquire(&self.tier, self.file(key)).await {
                Ok(lease) => self.leases.push((key, self.versions[key], lease)),
                Err(ResidencyError::NoRoom(shortage)) => {
                    assert!(shortage.available_bytes + shortage.would_free_bytes < shortage.needed_bytes);
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
            Op::Clear => drop(self.tier.clear().await.unwrap()),
        }
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
        assert!(snapshot.ledger.used_bytes + snapshot.ledger.reserved_bytes <= BUDGET);
        let audit = self.tier.accounted_vs_system().unwrap();
        assert_eq!((audit.used_bytes, audit.reserved_bytes), (audit.system_bytes, 0));
        assert_eq!(audit.underflows_total, 0);
        assert_eq!(audit.used_bytes, snapshot.entries.iter().map(|e| e.bytes).sum::<u64>());
        let counted: u32 = snapshot.entries.iter().map(|e| e.leases).sum();
        assert_eq!(counted as usize, self.leases.len());
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
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn g8_ledger_truth_and_g7_right_bytes_under_random_operations(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
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
    let world = Arc::new(World::new());
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
