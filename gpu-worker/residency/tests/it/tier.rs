//! The tier's promises: one read for many callers, leases hold, eviction and cancel give memory back.

use std::{fs, sync::Arc};

use residency::{LoadRequest, Phase, RamTier, ResidencyError, Shortage, arena::ReadMap, entry::State};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{Gate, MIB, acquire, assert_empty, bytes, request, slow_io, tier, until, write};

/// A component of one megabyte that stops at its first chunk.
fn held(dir: &TempDir, key: &str) -> (LoadRequest, Gate) {
    let path = write(dir, key, &bytes(MIB, 11));
    let (mut request, gate) = (request(key, &path), Gate::default());
    request.io = slow_io();
    gate.hold(&mut request.io);
    (request, gate)
}

fn waiters(tier: &RamTier) -> u32 {
    tier.snapshot().entries.iter().map(|entry| entry.waiters).sum()
}

#[tokio::test]
async fn a_hundred_callers_of_a_cold_component_cause_one_read() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let (request, gate) = held(&dir, "m");
    let request = Arc::new(request);
    let cancel = CancellationToken::new();
    let callers: Vec<_> = (0..100).map(|_| tier.acquire(request.clone(), &cancel)).collect();
    let all = async {
        let mut leases = Vec::new();
        let mut pending: Vec<_> = callers.into_iter().map(Box::pin).collect();
        std::future::poll_fn(|context| {
            pending.retain_mut(|caller| match caller.as_mut().poll(context) {
                std::task::Poll::Ready(lease) => {
                    leases.push(lease.unwrap());
                    false
                }
                std::task::Poll::Pending => true,
            });
            if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        leases
    };
    let (leases, ()) = tokio::join!(all, async {
        gate.reached().await;
        assert_eq!(waiters(&tier), 100);
        let progress = tier.progress("m").unwrap();
        assert_eq!((progress.phase, progress.bytes_total), (Phase::Reading, MIB));
        assert!(progress.bytes_done > 0);
        gate.open();
    });
    assert_eq!(leases.len(), 100);
    let snapshot = tier.snapshot();
    assert_eq!(snapshot.entries[0].leases, 100);
    assert_eq!((snapshot.stats.misses_total, snapshot.stats.joins_total), (1, 99));
    assert_eq!((snapshot.stats.loads_total, snapshot.stats.hits_total), (1, 0));
    assert_eq!(snapshot.stats.bytes_loaded_total, MIB);
    drop(acquire(&tier, Arc::unwrap_or_clone(request)).await.unwrap());
    assert_eq!(tier.snapshot().stats.hits_total, 1);
}

#[tokio::test]
async fn a_dropped_caller_does_not_kill_the_load() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let (request, gate) = held(&dir, "m");
    tokio::select! {
        _ = acquire(&tier, request) => panic!("the gate is closed"),
        () = gate.reached() => {}
    }
    gate.open();
    until(&tier, |snapshot| snapshot.entries[0].state == State::Ready).await;
    assert!(tier.lease("m").is_ok());
}

/// A caller of several loads hears of its cancel from one of them and drops the rest.
#[tokio::test]
async fn a_cancel_ends_all_loads_of_a_caller() {
    let dir = tempfile::tempdir().unwrap();
    let (tier, cancel) = (tier(8 * MIB), CancellationToken::new());
    let [(one, first), (two, second)] = ["one", "two"].map(|key| held(&dir, key));
    let both = async { tokio::try_join!(tier.acquire(one, &cancel), tier.acquire(two, &cancel)).map(|_| ()) };
    let (ended, ()) = tokio::join!(both, async {
        first.reached().await;
        second.reached().await;
        cancel.cancel();
    });
    assert!(matches!(ended, Err(ResidencyError::Cancelled { .. })));
    first.open();
    second.open();
    until(&tier, |snapshot| snapshot.entries.is_empty()).await;
    assert_empty(&tier);
}

#[tokio::test]
async fn the_last_caller_to_cancel_ends_the_load_and_memory_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let (request, gate) = held(&dir, "m");
    let request = Arc::new(request);
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let (one, two, ()) =
        tokio::join!(tier.acquire(request.clone(), &first), tier.acquire(request.clone(), &second), async {
            gate.reached().await;
            first.cancel();
            until(&tier, |snapshot| snapshot.entries[0].waiters == 1).await;
            assert_eq!(tier.snapshot().entries[0].state, State::Loading);
            second.cancel();
            until(&tier, |snapshot| snapshot.entries[0].waiters == 0).await;
            gate.open();
        });
    assert!(matches!(one, Err(ResidencyError::Cancelled { .. })));
    assert!(matches!(two, Err(ResidencyError::Cancelled { .. })));
    until(&tier, |snapshot| snapshot.entries.is_empty()).await;
    assert_empty(&tier);
    assert_eq!(tier.snapshot().stats.loads_cancelled_total, 1);
    assert!(tier.acquire(request, &CancellationToken::new()).await.is_ok());
}

#[tokio::test]
async fn cancel_by_key_ends_the_load_for_everyone_before_they_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let (request, gate) = held(&dir, "m");
    assert!(tier.cancel("m").is_err());
    let (result, ()) = tokio::join!(acquire(&tier, request), async {
        gate.reached().await;
        tier.cancel("m").unwrap();
        gate.open();
    });
    assert!(matches!(result, Err(ResidencyError::Cancelled { .. })));
    assert_empty(&tier);
}

#[tokio::test]
async fn a_load_that_is_ended_has_given_its_memory_back() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let (request, gate) = held(&dir, "m");
    assert!(tier.end_load("m").await.is_err(), "none runs");
    let (one, two, ()) = tokio::join!(acquire(&tier, request.clone()), acquire(&tier, request), async {
        gate.reached().await;
        let (ended, ()) = tokio::join!(tier.end_load("m"), async { gate.open() });
        ended.unwrap();
        assert_empty(&tier);
    });
    for result in [one, two] {
        assert!(matches!(result, Err(ResidencyError::Cancelled { .. })), "{result:?}");
    }
    assert!(matches!(tier.end_load("m").await, Err(ResidencyError::NotResident { .. })));
}

#[tokio::test]
async fn a_load_while_the_old_one_is_being_cancelled_starts_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let (request, gate) = held(&dir, "m");
    let again = request.clone();
    let (first, second) = tokio::join!(acquire(&tier, request), async {
        gate.reached().await;
        tier.cancel("m").unwrap();
        let (lease, ()) = tokio::join!(acquire(&tier, again), async { gate.open() });
        lease
    });
    assert!(matches!(first, Err(ResidencyError::Cancelled { .. })));
    assert_eq!(second.unwrap().tensor_bytes(), MIB);
}

#[tokio::test]
async fn least_recently_used_makes_room_and_leases_hold() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(3 * MIB);
    let of = |key: &str| request(key, &write(&dir, key, &bytes(MIB, 12)));
    for key in ["a", "b", "c"] {
        acquire(&tier, of(key)).await.unwrap();
    }
    drop(tier.lease("a").unwrap());
    drop(acquire(&tier, of("d")).await.unwrap());
    assert!(matches!(tier.lease("b"), Err(ResidencyError::NotResident { .. })));
    let (a, _d) = (tier.lease("a").unwrap(), tier.lease("d").unwrap());
    tier.protect("c", true).unwrap();
    let error = acquire(&tier, of("e")).await.unwrap_err();
    let ResidencyError::NoRoom(shortage) = error else { panic!("{error}") };
    let expected = Shortage { needed_bytes: MIB, available_bytes: 0, would_free_bytes: 0, capacity_bytes: 3 * MIB };
    assert_eq!(shortage, expected);
    assert!(matches!(tier.evict("a").await, Err(ResidencyError::Leased { by: 1, .. })));
    assert!(matches!(tier.evict("c").await, Err(ResidencyError::Protected { .. })));
    drop(a);
    drop(acquire(&tier, of("e")).await.unwrap());
    let stats = tier.snapshot().stats;
    assert_eq!((stats.evictions_total.room, stats.evictions_total.total()), (2, 2));
    assert_eq!(stats.load_failures_total, 0, "one that found no room waits for it");
}

#[tokio::test]
async fn what_can_never_fit_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(2 * MIB);
    acquire(&tier, request("small", &write(&dir, "s", &bytes(MIB, 13)))).await.unwrap();
    let large = request("large", &write(&dir, "l", &bytes(3 * MIB, 13)));
    let error = acquire(&tier, large).await.unwrap_err();
    let ResidencyError::NoRoom(shortage) = error else { panic!("{error}") };
    assert_eq!((shortage.would_free_bytes, shortage.available_bytes), (MIB, MIB));
    assert!(tier.lease("small").is_ok());
}

#[tokio::test]
async fn evict_and_clear_return_the_bytes_and_say_what_stays() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(9 * MIB);
    for key in ["free", "kept", "leased"] {
        acquire(&tier, request(key, &write(&dir, key, &bytes(MIB, 14)))).await.unwrap();
    }
    let before = tier.snapshot().generation;
    assert_eq!(tier.evict("free").await.unwrap().0, MIB);
    assert!(tier.snapshot().generation > before);
    assert!(matches!(tier.evict("free").await, Err(ResidencyError::NotResident { .. })));
    let lease = tier.lease("leased").unwrap();
    tier.protect("kept", true).unwrap();
    let report = tier.clear().await.unwrap();
    let kept: Vec<_> = report.kept.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!((report.freed.0, kept), (0, vec!["kept".to_owned(), "leased".to_owned()]));
    assert_eq!(tier.accounted_vs_system().unwrap().system_bytes, 2 * MIB);
    drop(lease);
    tier.protect("kept", false).unwrap();
    assert_eq!(tier.clear().await.unwrap().freed.0, 2 * MIB);
    assert_empty(&tier);
}

#[tokio::test]
async fn a_changed_file_is_loaded_anew_and_old_leases_keep_old_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let path = write(&dir, "m", &bytes(MIB, 15));
    let old = acquire(&tier, request("m", &path)).await.unwrap();
    fs::write(&path, bytes(MIB + 2, 16)).unwrap();
    let new = acquire(&tier, request("m", &path)).await.unwrap();
    assert_ne!(old.digest(), new.digest());
    assert_eq!(old.map().unwrap()[..MIB as usize], bytes(MIB, 15));
    let states: Vec<_> = tier.snapshot().entries.iter().map(|e| (e.state, e.leases)).collect();
    assert_eq!(states, [(State::Ready, 1), (State::Evicting, 1)]);
    drop(old);
    let snapshot = tier.snapshot();
    assert_eq!((snapshot.entries.len(), snapshot.stats.evictions_total.superseded), (1, 1));
    assert_eq!(tier.accounted_vs_system().unwrap().system_bytes, new.bytes());
}

#[tokio::test]
async fn equal_digests_are_the_same_content_whatever_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let one = request("vae", &write(&dir, "one", &bytes(MIB, 17)));
    let digest = acquire(&tier, one).await.unwrap().digest();
    let mut two = request("vae", &write(&dir, "two", &bytes(MIB, 17)));
    two.expected_digest = Some(digest);
    assert_eq!(acquire(&tier, two.clone()).await.unwrap().digest(), digest);
    assert_eq!(tier.snapshot().stats.loads_total, 1);
}

#[tokio::test]
async fn a_reader_gets_the_sealed_bytes_by_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let tier = tier(8 * MIB);
    let content = bytes(MIB, 18);
    let lease = acquire(&tier, request("m", &write(&dir, "m", &content))).await.unwrap();
    let fd = lease.fd_readonly().unwrap();
    let map = ReadMap::open(&fd, lease.offset(), MIB as usize).unwrap();
    assert_eq!(map[..], content[..]);
    assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
    assert!(rustix::fs::ftruncate(&fd, 0).is_err());
}
