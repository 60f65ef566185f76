//! Copies to the device: whole, bounded, replaced, cancelled.

use std::sync::Mutex;

use gpu_worker::runner::{DeviceLoad, DeviceTensor, RunnerError, RunnerState};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, MIB, device_load, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_digest_of_its_source_and_unload_gives_every_byte_back() {
    let bench = Bench::new(64 * MIB).await;
    let lease = bench.component("whole", 20 * MIB + 77).await;
    let never = CancellationToken::new();
    let bytes = bench.load(&lease, &never).await.unwrap();
    let status = bench.runner.status().borrow().clone();
    assert_eq!((status.memory.used_bytes, status.memory.system_bytes), (bytes, bytes), "ledger and system agree");
    assert_eq!(status.resident.len(), 1);
    assert_eq!(bench.runner.digest(id(&lease)).await.unwrap(), lease.digest().to_string());
    assert!(bench.runner.load(device_load(&lease), |_| {}, &never).await.unwrap().already);
    assert_eq!(bench.runner.unload(id(&lease)).await.unwrap(), bytes);
    let memory = bench.runner.status().borrow().memory;
    assert_eq!((memory.used_bytes, memory.system_bytes), (0, 0));
    let again = bench.runner.unload(id(&lease)).await.unwrap_err();
    assert!(matches!(again, RunnerError::NotResident { .. }), "{again}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_device_says_what_is_missing_and_what_would_free_it() {
    let bench = Bench::new(16 * MIB).await;
    let never = CancellationToken::new();
    let (first, second) = (bench.component("one", 10 * MIB).await, bench.component("two", 10 * MIB).await);
    bench.load(&first, &never).await.unwrap();
    match bench.load(&second, &never).await.unwrap_err() {
        RunnerError::OutOfMemory { needed_bytes, available_bytes, capacity_bytes, would_free_bytes, .. } => {
            assert_eq!(capacity_bytes, 16 * MIB);
            assert!(needed_bytes > available_bytes);
            assert!(would_free_bytes >= 10 * MIB);
        }
        other => panic!("{other}"),
    }
    assert_eq!(bench.runner.status().borrow().resident.len(), 1, "what was there is still there");
    bench.runner.unload(id(&first)).await.unwrap();
    bench.load(&second, &never).await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_copy_leaves_nothing() {
    let bench = Bench::new(256 * MIB).await;
    let lease = bench.component("large", 200 * MIB).await;
    let cancel = CancellationToken::new();
    let stopper = cancel.clone();
    // the first chunk that arrives asks for the stop
    let result = bench.runner.load(device_load(&lease), move |_| stopper.cancel(), &cancel).await;
    match result {
        Err(RunnerError::Cancelled { .. }) => assert!(bench.runner.status().borrow().resident.is_empty()),
        // the copy may have been through before the cancel arrived; then it is whole
        Ok(loaded) => assert_eq!(loaded.bytes, lease.bytes()),
        Err(other) => panic!("{other}"),
    }
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let other = bench.component("other", 200 * MIB).await;
    if let Err(error) = bench.runner.load(device_load(&other), |_| {}, &cancelled).await {
        assert!(matches!(error, RunnerError::Cancelled { .. } | RunnerError::OutOfMemory { .. }), "{error}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_replaces_the_old_and_is_never_beside_it() {
    let bench = Bench::new(30 * MIB).await;
    let never = CancellationToken::new();
    let leases = [bench.component("first", 10 * MIB).await, bench.component("second", 12 * MIB).await];
    // the third fits only where the second was
    let third = bench.component("third", 26 * MIB).await;
    let component = id(&third);
    for lease in leases.iter().chain([&third]) {
        let load = DeviceLoad { component, ..device_load(lease) };
        let loaded = bench.runner.load(load, |_| {}, &never).await.unwrap();
        let status = bench.runner.status().borrow().clone();
        assert_eq!(status.resident.len(), 1);
        assert_eq!(status.resident[0].digest, lease.digest().to_string());
        assert_eq!((status.memory.used_bytes, status.memory.system_bytes), (loaded.bytes, loaded.bytes));
        assert_eq!(bench.runner.digest(component).await.unwrap(), lease.digest().to_string());
    }
    let fourth = bench.component("fourth", 40 * MIB).await;
    let refused = bench.runner.load(DeviceLoad { component, ..device_load(&fourth) }, |_| {}, &never).await;
    assert!(matches!(refused, Err(RunnerError::OutOfMemory { .. })), "{refused:?}");
    let kept = bench.runner.status().borrow().resident[0].digest.clone();
    assert_eq!(kept, third.digest().to_string(), "what cannot fit anyway costs the old content nothing");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_grows_to_the_whole_and_thousands_of_tensors_fit() {
    let bench = Bench::new(64 * MIB).await;
    let lease = bench.component("many", 30 * MIB).await;
    let mut load = device_load(&lease);
    load.tensors = (0..3_000)
        .map(|index| DeviceTensor {
            name: format!("model.diffusion_model.output_blocks.{index}.1.transformer_blocks.0.attn2.to_k.weight"),
            dtype: "U8".into(),
            shape: vec![256],
            offset: index * 256,
            len: 256,
        })
        .collect();
    let seen = Mutex::new(Vec::new());
    bench.runner.load(load, |bytes| seen.lock().unwrap().push(bytes), &CancellationToken::new()).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&lease.bytes()));
    bench.end().await;
}

/// Memory that other processes have open is theirs to read, nobody's to write, and not taken away before the last lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_component_stays_until_its_leases_end() {
    let bench = Bench::new(64 * MIB).await;
    let (lease, cancel) = (bench.component("shared", 6 * MIB).await, CancellationToken::new());
    assert!(matches!(bench.runner.share(id(&lease)).await, Err(RunnerError::NotResident { .. })));
    bench.load(&lease, &cancel).await.unwrap();
    let (first, second) =
        (bench.runner.share(id(&lease)).await.unwrap(), bench.runner.share(id(&lease)).await.unwrap());
    assert_eq!((first.digest.as_str(), first.tensors.len()), (lease.digest().to_string().as_str(), 2));
    let memory = first.memory.as_ref().unwrap();
    let mut there = vec![0; lease.bytes() as usize];
    rustix::io::pread(memory, &mut *there, 0).unwrap();
    assert!(there == lease.map().unwrap()[..], "other bytes than were loaded");
    assert!(rustix::io::pwrite(memory, &[1], 0).is_err());

    let refused = bench.runner.unload(id(&lease)).await.unwrap_err();
    assert!(matches!(refused, RunnerError::InUse { leases: 2, .. }), "{refused}");
    drop(first);
    bench.wait(|status| status.resident.iter().all(|resident| resident.leases == 1)).await;
    drop(second);
    bench.wait(|status| status.resident.iter().all(|resident| resident.leases == 0)).await;
    bench.runner.unload(id(&lease)).await.unwrap();

    // a lease ends with the process that holds the memory, and is none of the next one's
    bench.load(&lease, &cancel).await.unwrap();
    let held = bench.runner.share(id(&lease)).await.unwrap();
    bench.runner.recycle("a test".to_owned()).await;
    held.lease.lost().await;
    bench.wait(|status| status.restarts_total == 1 && status.state == RunnerState::Ready).await;
    bench.load(&lease, &cancel).await.unwrap();
    drop(held);
    bench.runner.unload(id(&lease)).await.unwrap();
    bench.end().await;
}

/// A held runner has no process and says why; it gets one when it is released.
#[tokio::test(flavor = "multi_thread")]
async fn f30_a_held_runner_has_no_process_until_it_is_released() {
    let bench = Bench::new(64 * MIB).await;
    let lease = bench.component("held", MIB).await;
    bench.runner.hold(Some("Xid 79".to_owned())).await;
    let down = bench.wait(|status| status.state == RunnerState::Down { reason: "Xid 79".into() }).await;
    assert_eq!((down.pid, down.resident.len()), (None, 0));
    bench.runner.recycle("nothing to end".to_owned()).await;
    bench.runner.hold(None).await;
    bench.wait(|status| status.state == RunnerState::Ready).await;
    bench.load(&lease, &CancellationToken::new()).await.unwrap();
    bench.end().await;
}
