//! Copies whose source is still being written: never beyond what has landed, resident only with their digest.

use std::{fs::File, os::unix::fs::FileExt};

use gpu_worker::runner::{DeviceFollow, DeviceLoad, DeviceLoaded, Landed, RunnerError};
use residency::Lease;
use shared::ids::ComponentId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, MIB, device_load, id};

/// A component as it comes into a file, and what is known of its copy.
struct Coming {
    component: ComponentId,
    lease: Lease,
    file: File,
    landed: watch::Sender<Landed>,
    copied: watch::Sender<u64>,
    cancel: CancellationToken,
}

impl Coming {
    async fn new(bench: &Bench, name: &str, bytes: u64) -> Self {
        let lease = bench.component(name, bytes).await;
        let file = tempfile::tempfile().unwrap();
        file.set_len(lease.bytes()).unwrap();
        let (landed, copied) = (watch::Sender::default(), watch::Sender::default());
        Self { component: id(&lease), lease, file, landed, copied, cancel: CancellationToken::new() }
    }

    /// Writes up to this byte and says so.
    fn lands(&self, bytes: u64) {
        let from = self.landed.borrow().bytes;
        self.file.write_all_at(&self.lease.map().unwrap()[from as usize..bytes as usize], from).unwrap();
        self.landed.send_modify(|landed| landed.bytes = bytes);
    }

    fn ends(&self) {
        self.landed.send_modify(|landed| landed.digest = Some(self.lease.digest().to_string()));
    }

    async fn copied(&self, bytes: u64) {
        self.copied.subscribe().wait_for(|copied| *copied >= bytes).await.unwrap();
        assert_eq!(*self.copied.borrow(), bytes, "beyond what has landed");
    }

    async fn follow(&self, bench: &Bench) -> Result<DeviceLoaded, RunnerError> {
        let DeviceLoad { tensors, offset, bytes, .. } = device_load(&self.lease);
        let source = self.file.try_clone().unwrap().into();
        let follow = DeviceFollow { component: self.component, tensors, source, offset, bytes };
        let progress = |bytes| {
            self.copied.send_replace(bytes);
        };
        bench.runner.follow(follow, self.landed.subscribe(), progress, &self.cancel).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_stops_at_what_has_landed_and_is_resident_with_its_digest() {
    let bench = Bench::new(64 * MIB).await;
    let coming = Coming::new(&bench, "coming", 20 * MIB + 77).await;
    let (loaded, ()) = tokio::join!(coming.follow(&bench), async {
        let bytes = coming.lease.bytes();
        for to in [5, 9 * MIB + 5, 17 * MIB] {
            coming.lands(to);
            coming.copied(to).await;
            let status = bench.wait(|status| status.memory.used_bytes > 0).await;
            assert!(status.resident.is_empty(), "shown before it is whole");
            // the device obeys others meanwhile
            let other = bench.component(&format!("other {to}"), MIB).await;
            bench.load(&other, &CancellationToken::new()).await.unwrap();
            bench.runner.unload(id(&other)).await.unwrap();
        }
        coming.lands(bytes);
        coming.copied(bytes).await;
        assert!(bench.runner.status().borrow().resident.is_empty(), "shown before it is verified");
        coming.ends();
    });
    let (loaded, status) = (loaded.unwrap(), bench.runner.status().borrow().clone());
    assert!(!loaded.already && loaded.seconds > 0.0, "{loaded:?}");
    assert_eq!((status.memory.used_bytes, status.memory.system_bytes), (loaded.bytes, loaded.bytes));
    assert_eq!(bench.runner.digest(id(&coming.lease)).await.unwrap(), coming.lease.digest().to_string());

    // the same content again, told in one word
    let again = coming.follow(&bench).await.unwrap();
    assert!(again.already && again.bytes == loaded.bytes, "{again:?}");
    assert_eq!(bench.runner.status().borrow().memory.used_bytes, loaded.bytes);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f34_a_copy_that_is_cancelled_while_it_waits_for_more_gives_its_memory_back() {
    let bench = Bench::new(64 * MIB).await;
    let coming = Coming::new(&bench, "coming", 20 * MIB).await;
    let (cancelled, ()) = tokio::join!(coming.follow(&bench), async {
        coming.lands(9 * MIB);
        coming.copied(9 * MIB).await;
        coming.cancel.cancel();
    });
    assert!(matches!(cancelled, Err(RunnerError::Cancelled { .. })), "{cancelled:?}");
    let memory = bench.runner.status().borrow().memory;
    assert_eq!((memory.used_bytes, memory.system_bytes), (0, 0));

    // a caller that went away says so as well
    let dropped = Coming::new(&bench, "dropped", 20 * MIB).await;
    tokio::select! {
        ended = dropped.follow(&bench) => panic!("{ended:?}"),
        () = async {
            dropped.lands(MIB);
            dropped.copied(MIB).await;
        } => {}
    }
    bench.wait(|status| status.memory.used_bytes == 0 && status.memory.system_bytes == 0).await;
    bench.end().await;
}

#[tokio::test]
async fn a_copy_whose_cancel_found_the_queue_full_gives_its_memory_back_all_the_same() {
    let bench = Bench::new(64 * MIB).await;
    let coming = Coming::new(&bench, "coming", 20 * MIB).await;
    let mut copying = Box::pin(coming.follow(&bench));
    tokio::select! {
        ended = &mut copying => panic!("{ended:?}"),
        () = async {
            coming.lands(MIB);
            coming.copied(MIB).await;
        } => {}
    }
    tokio::task::yield_now().await;
    // on one thread nobody takes what is asked meanwhile
    let mut others: Vec<_> = (0..40).map(|_| Box::pin(bench.runner.unload(ComponentId::generate()))).collect();
    for other in &mut others {
        assert!(futures::poll!(other).is_pending());
    }
    drop(copying);
    drop(others);
    bench.wait(|status| status.memory.used_bytes == 0 && status.memory.system_bytes == 0).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_early_or_is_not_there_becomes_nothing() {
    let bench = Bench::new(64 * MIB).await;
    let kept = bench.component("kept", MIB).await;
    let held = bench.load(&kept, &CancellationToken::new()).await.unwrap();
    let early = Coming::new(&bench, "early", 20 * MIB).await;
    early.lands(MIB);
    early.ends();
    let short = Coming::new(&bench, "short", 20 * MIB).await;
    short.file.set_len(3 * MIB).unwrap();
    short.landed.send_modify(|landed| landed.bytes = 4 * MIB);
    let beyond = Coming::new(&bench, "beyond", 20 * MIB).await;
    beyond.landed.send_modify(|landed| landed.bytes = beyond.lease.bytes() + 1);
    for (coming, why) in [(early, "ended after"), (short, "is shorter"), (beyond, "are said to be there")] {
        let error = coming.follow(&bench).await.unwrap_err();
        assert!(matches!(&error, RunnerError::Device { message, .. } if message.contains(why)), "{error}");
        let status = bench.runner.status().borrow().clone();
        assert_eq!((status.memory.used_bytes, status.memory.system_bytes), (held, held));
        assert_eq!(status.resident.len(), 1);
    }
    bench.end().await;
}

/// What is on the device stays until the new content is whole, also where both do not fit.
#[tokio::test(flavor = "multi_thread")]
async fn other_content_replaces_the_old_only_once_it_is_whole() {
    let bench = Bench::new(30 * MIB).await;
    let old = bench.component("old", 10 * MIB).await;
    bench.load(&old, &CancellationToken::new()).await.unwrap();
    let new = async |name, bytes| Coming { component: id(&old), ..Coming::new(&bench, name, bytes).await };
    let (too_big, fits) = (new("too big", 24 * MIB).await, new("fits", 12 * MIB).await);
    let refused = too_big.follow(&bench).await;
    assert!(matches!(refused, Err(RunnerError::OutOfMemory { .. })), "{refused:?}");
    assert_eq!(bench.runner.digest(id(&old)).await.unwrap(), old.digest().to_string());
    fits.lands(fits.lease.bytes());
    fits.ends();
    let loaded = fits.follow(&bench).await.unwrap();
    assert_eq!(bench.runner.digest(id(&old)).await.unwrap(), fits.lease.digest().to_string());
    let status = bench.runner.status().borrow().clone();
    assert_eq!((status.resident.len(), status.memory.used_bytes), (1, loaded.bytes));
    bench.end().await;
}
