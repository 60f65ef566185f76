//! Who goes and when: the cost policy on real loads, records of evictions, keep-alive, a limit that is cut, early reloads.

use std::time::Duration;

use residency::{
    EntrySnapshot, KeepAlive, RamTier, Reason, ResidencyError, TierConfig,
    entry::State,
    policy::{Policy, Verdict},
};
use tempfile::TempDir;

use crate::support::{Gate, MIB, acquire, assert_empty, bytes, request, slow_io, tier, tier_with, until, write};

/// Loads `key`, one megabyte, and lets it go.
async fn touch(tier: &RamTier, dir: &TempDir, key: &str) {
    let path = dir.path().join(key);
    if !path.exists() {
        write(dir, key, &bytes(MIB, 21));
    }
    drop(acquire(tier, request(key, &path)).await.unwrap());
}

fn entry(tier: &RamTier, key: &str) -> Option<EntrySnapshot> {
    tier.snapshot().entries.into_iter().find(|entry| entry.key == key)
}

fn resident(tier: &RamTier) -> Vec<String> {
    let ready = tier.snapshot().entries.into_iter().filter(|entry| entry.state == State::Ready);
    ready.map(|entry| entry.key).collect()
}

#[tokio::test]
async fn every_eviction_leaves_a_record_with_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(3 * MIB);
    for key in ["a", "b", "c"] {
        touch(&tier, &dir, key).await;
    }
    let lease = tier.lease("b").unwrap();
    tier.protect("c", true).unwrap();
    touch(&tier, &dir, "d").await;
    tier.evict("d").await.unwrap();
    tier.clear().await.unwrap();
    tier.protect("c", false).unwrap();
    tier.clear().await.unwrap();
    drop(lease);
    tier.evict_for("b", Reason::Duplicate).await.unwrap();

    let decisions = tier.decisions_after(0);
    let reasons: Vec<Reason> = decisions.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [Reason::Room, Reason::Requested, Reason::Cleared, Reason::Duplicate]);
    assert_eq!(decisions.iter().map(|one| one.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let room = &decisions[0];
    assert_eq!((room.wanted.as_deref(), room.wanted_bytes, room.need_bytes), (Some("d"), MIB, MIB));
    assert_eq!((room.freed_bytes, room.policy), (MIB, Some(Policy::Lru)));
    let verdicts: Vec<_> = room.rows.iter().map(|row| (row.key.as_str(), row.verdict)).collect();
    assert_eq!(verdicts, [("a", Verdict::Evict), ("c", Verdict::Protected), ("b", Verdict::Leased)]);
    assert!(tier.decisions_after(4).is_empty());
    let stats = tier.stats();
    let counts = stats.evictions_total;
    assert_eq!((counts.room, counts.requested, counts.cleared, counts.duplicate), (1, 1, 1, 1));
    assert_eq!((stats.evicted_bytes_total, stats.ages.iter().sum::<u64>()), (4 * MIB, 4));
    assert_empty(&tier);
}

#[tokio::test]
async fn a_reload_soon_after_our_own_choice_is_counted_and_one_after_a_request_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(MIB);
    for key in ["a", "b", "a"] {
        touch(&tier, &dir, key).await;
    }
    assert_eq!(tier.stats().early_reloads_total, 1);
    tier.evict("a").await.unwrap();
    touch(&tier, &dir, "a").await;
    assert_eq!(tier.stats().early_reloads_total, 1);
}

#[tokio::test]
async fn an_entry_says_who_holds_it_and_when_it_would_go() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier_with(4 * MIB, Policy::Cost);
    for key in ["a", "b", "c"] {
        touch(&tier, &dir, key).await;
    }
    let (one, two) = (tier.lease("b").unwrap(), tier.lease("b").unwrap());
    one.mark("job 1");
    two.mark("job 2");
    drop(one);
    let b = entry(&tier, "b").unwrap();
    let standing = b.standing.unwrap();
    assert_eq!((b.holders, standing.place, standing.row.verdict), (vec!["job 2".to_owned()], None, Verdict::Leased));
    drop(two);
    let mut places: Vec<(u64, u64)> = tier
        .snapshot()
        .entries
        .into_iter()
        .filter_map(|one| one.standing)
        .filter_map(|standing| Some((standing.place?, standing.bytes_before)))
        .collect();
    places.sort_unstable();
    assert_eq!(places, [(1, 0), (2, MIB), (3, 2 * MIB)]);
    assert!(entry(&tier, "b").unwrap().holders.is_empty());
}

#[tokio::test]
async fn keep_alive_counts_from_the_last_use_and_holds_for_nobody_who_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    for key in ["now", "kept", "leased", "later", "never"] {
        touch(&tier, &dir, key).await;
    }
    for key in ["now", "kept", "leased"] {
        tier.set_keep_alive(key, Some(KeepAlive::For(Duration::ZERO))).unwrap();
    }
    tier.set_keep_alive("later", Some(KeepAlive::For(Duration::from_secs(3600)))).unwrap();
    tier.set_keep_alive("never", Some(KeepAlive::Forever)).unwrap();
    let lease = tier.lease("leased").unwrap();
    tier.protect("kept", true).unwrap();
    assert_eq!(tier.next_expiry(), Some(Duration::ZERO));
    assert_eq!(tier.expire().await.unwrap().0, MIB);
    assert_eq!(resident(&tier), ["kept", "later", "leased", "never"]);
    drop(lease);
    tier.protect("kept", false).unwrap();
    assert_eq!(tier.expire().await.unwrap().0, 2 * MIB);
    assert_eq!(resident(&tier), ["later", "never"]);
    let left = tier.next_expiry().unwrap();
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3600), "{left:?}");
    assert_eq!(tier.stats().evictions_total.expired, 3);
    assert!(matches!(tier.set_keep_alive("now", None), Err(ResidencyError::NotResident { .. })));
}

#[tokio::test]
async fn a_default_keep_alive_holds_where_nothing_else_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let keep_alive = Some(KeepAlive::For(Duration::ZERO));
    let tier = RamTier::new(TierConfig { keep_alive, ..TierConfig::new(8 * MIB) });
    touch(&tier, &dir, "default").await;
    touch(&tier, &dir, "forever").await;
    tier.set_keep_alive("forever", Some(KeepAlive::Forever)).unwrap();
    tier.expire().await.unwrap();
    assert_eq!(resident(&tier), ["forever"]);
}

#[tokio::test]
async fn a_cut_limit_shrinks_by_the_policy_refuses_loads_and_kills_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(10 * MIB);
    for number in 0..10 {
        touch(&tier, &dir, &number.to_string()).await;
    }
    let leases: Vec<_> = ["0", "1"].map(|key| tier.lease(key).unwrap()).into();
    assert_eq!(tier.limit(7 * MIB, "a test says so").await.unwrap().0, 3 * MIB);
    assert_eq!(resident(&tier), ["0", "1", "5", "6", "7", "8", "9"], "the oldest that nobody holds");
    let decision = tier.decisions_after(0).pop().unwrap();
    assert_eq!((decision.reason, decision.need_bytes, decision.victims().count()), (Reason::Pressure, 3 * MIB, 3));

    // below what is leased: what can go goes, what is held stays, nothing is granted
    assert_eq!(tier.limit(MIB, "a test says so").await.unwrap().0, 5 * MIB);
    let ledger = tier.snapshot().ledger;
    assert_eq!((ledger.used_bytes, ledger.excess_bytes(), ledger.configured_bytes), (2 * MIB, MIB, 10 * MIB));
    let refused = acquire(&tier, request("new", &write(&dir, "new", &bytes(MIB, 22)))).await.unwrap_err();
    let ResidencyError::Pressure(squeeze) = &refused else { panic!("{refused}") };
    assert_eq!((squeeze.shortage.capacity_bytes, squeeze.configured_bytes), (MIB, 10 * MIB));
    assert!(refused.to_string().contains("a test says so"), "{refused}");
    assert_eq!(leases[0].map().unwrap()[..MIB as usize], bytes(MIB, 21));
    let large = request("large", &write(&dir, "large", &bytes(11 * MIB, 22)));
    let error = acquire(&tier, large).await.unwrap_err();
    assert!(matches!(error, ResidencyError::NoRoom(_)), "that would not fit the whole budget either: {error}");

    drop(leases);
    assert_eq!(tier.limit(MIB, "a test says so").await.unwrap().0, MIB, "asked again, it goes on");
    tier.limit(u64::MAX, "").await.unwrap();
    touch(&tier, &dir, "new").await;
    assert_eq!(tier.snapshot().ledger.budget_bytes, 10 * MIB);
}

#[tokio::test]
async fn a_cut_limit_leaves_a_running_load_alone() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(4 * MIB);
    touch(&tier, &dir, "old").await;
    let path = write(&dir, "m", &bytes(MIB, 23));
    let (mut load, gate) = (request("m", &path), Gate::default());
    load.io = slow_io();
    gate.hold(&mut load.io);
    let (lease, ()) = tokio::join!(acquire(&tier, load), async {
        gate.reached().await;
        assert_eq!(tier.limit(0, "a test says so").await.unwrap().0, MIB);
        gate.open();
    });
    assert_eq!(lease.unwrap().map().unwrap()[..MIB as usize], bytes(MIB, 23));
    until(&tier, |snapshot| snapshot.entries.iter().all(|entry| entry.leases == 0)).await;
    assert_eq!(tier.limit(0, "a test says so").await.unwrap().0, MIB);
    assert_empty(&tier);
}
