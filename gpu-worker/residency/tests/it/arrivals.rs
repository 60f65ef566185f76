//! Following a load: what is complete stays as it is, and a load that fails leaves its followers nothing.

use std::{
    fs,
    future::{Future, poll_fn},
    path::Path,
    task::Poll,
};

use residency::{Arrival, RamTier, ResidencyError, Unverified};
use rustix::{fs::fstat, io::pread};
use tokio_util::sync::CancellationToken;

use crate::support::{Gate, MIB, acquire, assert_empty, bytes, request, slow_io, tier, until, write};

const CHUNK: u64 = 64 << 10;

/// The load of `key` once bytes of it are complete.
async fn followed(tier: &RamTier, key: &str) -> Arrival {
    until(tier, |_| tier.arrival(key).is_some()).await;
    let mut arrivals = tier.arrival(key).unwrap();
    let some = arrivals.wait_for(|arrival| arrival.as_ref().is_some_and(|arrival| arrival.complete_bytes > 0)).await;
    some.unwrap().clone().unwrap()
}

fn read(memory: &Unverified, len: u64) -> Vec<u8> {
    let mut there = vec![0xee; len as usize];
    assert_eq!(pread(memory.fd_readonly().unwrap(), &mut *there, 0).unwrap(), there.len());
    there
}

#[tokio::test]
async fn what_is_complete_is_there_before_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(MIB, 1);
    let path = write(&dir, "m", &content);
    let (tier, gate) = (tier(8 * MIB), Gate::default());
    let other = acquire(&tier, request("other", &write(&dir, "o", &content[..5_000]))).await.unwrap();
    let mut wanted = request("m", &path);
    wanted.io = slow_io();
    gate.hold(&mut wanted.io);
    let (lease, arrival) = tokio::join!(acquire(&tier, wanted), async {
        let arrival = followed(&tier, "m").await;
        // the threads that write are held after a chunk each
        assert!(arrival.complete_bytes >= CHUNK && arrival.complete_bytes < MIB, "{arrival:?}");
        assert_eq!(tier.lease("m").unwrap_err().to_string(), "component `m` is not resident", "seen before its digest");
        assert!(read(&arrival.memory, arrival.complete_bytes) == content[..arrival.complete_bytes as usize]);
        gate.open();
        arrival
    });
    let lease = lease.unwrap();
    assert_eq!((arrival.memory.bytes(), arrival.memory.tensors()), (lease.bytes(), lease.tensors()));
    assert!(arrival.memory.became(&lease) && !arrival.memory.became(&other));
    assert!(read(&arrival.memory, MIB) == content);
    assert!(tier.arrival("m").is_none());
    drop((lease, other));
    tier.clear().await.unwrap();
    assert_empty(&tier);
}

/// A load that is followed and, after the first chunk, goes wrong by `spoil`: its error, and what the follower has left.
async fn spoilt(spoil: impl FnOnce(&Path, &CancellationToken)) -> (ResidencyError, Arrival) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "m", &bytes(2 * MIB, 2));
    let (tier, gate, cancel) = (tier(8 * MIB), Gate::default(), CancellationToken::new());
    let mut wanted = request("m", &path);
    wanted.io = slow_io();
    gate.hold(&mut wanted.io);
    let (result, arrival) = tokio::join!(tier.acquire(wanted, &cancel), async {
        let arrival = followed(&tier, "m").await;
        spoil(&path, &cancel);
        gate.open();
        arrival
    });
    until(&tier, |_| tier.arrival("m").is_none()).await;
    assert_empty(&tier);
    (result.unwrap_err(), arrival)
}

#[tokio::test]
async fn followers_of_a_load_that_fails_hold_no_page() {
    let (changed, left) = spoilt(|path, _| fs::remove_file(path).unwrap()).await;
    assert!(matches!(changed, ResidencyError::Changed(_)), "{changed}");
    assert_eq!(fstat(left.memory.fd_readonly().unwrap()).unwrap().st_blocks, 0);
    assert!(read(&left.memory, left.complete_bytes).iter().all(|byte| *byte == 0));

    let (cancelled, left) = spoilt(|_, cancel| cancel.cancel()).await;
    assert!(matches!(cancelled, ResidencyError::Cancelled { .. }), "{cancelled}");
    assert_eq!(fstat(left.memory.fd_readonly().unwrap()).unwrap().st_blocks, 0);
}

/// Another load of the key begins: who followed the one before is told, while it still has memory that nobody counts.
#[tokio::test]
async fn who_follows_a_load_is_told_when_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (write(&dir, "old", &bytes(MIB, 4)), write(&dir, "new", &bytes(MIB, 5)));
    let (tier, gates) = (tier(8 * MIB), [Gate::default(), Gate::default()]);
    let held = |path: &Path, gate: &Gate| {
        let mut wanted = request("m", path);
        wanted.io = slow_io();
        gate.hold(&mut wanted.io);
        wanted
    };
    let (first, second) = (held(&old, &gates[0]), held(&new, &gates[1]));
    let follow = async {
        let arrival = followed(&tier, "m").await;
        let arrivals = tier.arrival("m").unwrap();
        {
            let mut superseded = std::pin::pin!(tier.superseded("m", &arrivals));
            let looked = poll_fn(|context| Poll::Ready(superseded.as_mut().poll(context)));
            assert!(looked.await.is_pending(), "its load still runs");
            gates[0].open();
            superseded.await;
        }
        // what the follower has is held by nobody else any more, and in no figure of the tier
        assert!(read(&arrival.memory, MIB) == bytes(MIB, 4), "it is still held");
        assert_eq!(tier.accounted_vs_system().unwrap().arenas, 1, "that of the load which runs");
        gates[1].open();
    };
    let (one, other, ()) = tokio::join!(
        async { drop(acquire(&tier, first).await.unwrap()) },
        async {
            gates[0].reached().await;
            acquire(&tier, second).await
        },
        follow
    );
    let () = one;
    assert_eq!(other.unwrap().tensor_bytes(), MIB);
}
