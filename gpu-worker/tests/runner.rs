//! The runner as a real process on `cpu:0`: copies arrive whole, refusals name numbers, deaths are noticed and mended.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write, path::PathBuf, sync::Arc, time::Duration};

use gpu_worker::runner::{DeviceLoad, DeviceTensor, Runner, RunnerConfig, RunnerError, RunnerState, RunnerStatus};
use residency::{
    FileIdentity, IoOptions, Lease, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig, policy::Policy,
};
use shared::{ids::ComponentId, shutdown::Tasks};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    folder: tempfile::TempDir,
    tier: RamTier,
    tasks: Tasks,
    runner: Runner,
}

impl Bench {
    async fn new(memory_bytes: u64) -> Self {
        let tasks = Tasks::new();
        let config = RunnerConfig {
            device: "cpu:0".into(),
            memory_bytes,
            program: PathBuf::from(env!("CARGO_BIN_EXE_gpu-worker")),
            log_filter: "warn".into(),
        };
        let runner = Runner::supervise(config, &tasks);
        let tier = RamTier::new(TierConfig { budget_bytes: 1 << 30, headroom_bytes: 0, policy: Policy::Lru });
        let bench = Self { folder: tempfile::tempdir().unwrap(), tier, tasks, runner };
        bench.wait(|status| status.state == RunnerState::Ready).await;
        bench
    }

    async fn wait(&self, holds: impl FnMut(&RunnerStatus) -> bool) -> RunnerStatus {
        let mut status = self.runner.status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(holds)).await;
        found.unwrap_or_else(|_| panic!("waited too long: {:?}", self.runner.status().borrow())).unwrap().clone()
    }

    /// A component of two tensors in RAM.
    async fn component(&self, name: &str, bytes: u64) -> Lease {
        let path = self.folder.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        let seed = name.bytes().map(u64::from).sum::<u64>();
        let data: Vec<u8> = (0..bytes).map(|index| (index.wrapping_mul(seed | 1) >> 7) as u8).collect();
        file.write_all(&data).unwrap();
        let tensor = |name: &str, begin, end| TensorRange {
            name: name.into(),
            dtype: "U8".into(),
            shape: vec![end - begin],
            file_index: 0,
            begin,
            end,
        };
        let request = LoadRequest {
            key: Arc::from(ComponentId::generate().to_string()),
            sources: vec![SourceFile { expected: FileIdentity::of(&path).unwrap(), path }],
            tensors: vec![tensor("a", 0, bytes / 3), tensor("b", bytes / 3, bytes)],
            expected_digest: None,
            io: IoOptions::default(),
        };
        self.tier.acquire(request, &CancellationToken::new()).await.unwrap()
    }

    async fn load(&self, lease: &Lease, cancel: &CancellationToken) -> Result<u64, RunnerError> {
        let loaded = self.runner.load(device_load(lease), |_| {}, cancel).await?;
        Ok(loaded.bytes)
    }

    async fn end(self) {
        self.runner.stop(Duration::from_secs(5)).await;
        assert!(self.tasks.stop_and_wait(PATIENCE).await);
    }
}

fn id(lease: &Lease) -> ComponentId {
    lease.key().parse().unwrap()
}

fn device_load(lease: &Lease) -> DeviceLoad {
    let tensors = lease.tensors().iter().map(|tensor| DeviceTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        offset: tensor.offset,
        len: tensor.len,
    });
    DeviceLoad {
        component: id(lease),
        digest: lease.digest().to_string(),
        tensors: tensors.collect(),
        source: lease.fd_readonly().unwrap(),
        offset: lease.offset(),
        bytes: lease.bytes(),
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

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
async fn a_killed_runner_costs_its_caller_an_error_and_is_replaced_empty() {
    let bench = Bench::new(256 * MIB).await;
    let never = CancellationToken::new();
    let lease = bench.component("kept", MIB).await;
    bench.load(&lease, &never).await.unwrap();
    let pid = bench.runner.status().borrow().pid.unwrap();
    // stopped, it answers nothing; killed, whoever waits must be told
    signal(pid, rustix::process::Signal::STOP);
    let large = bench.component("large", 100 * MIB).await;
    let waiting = bench.load(&large, &never);
    let killing = async {
        tokio::task::yield_now().await;
        signal(pid, rustix::process::Signal::KILL);
    };
    let (result, ()) = tokio::join!(waiting, killing);
    match result.unwrap_err() {
        RunnerError::Crashed { how, .. } => assert_eq!(how, "signal 9"),
        // the process was gone before the command was sent
        RunnerError::Unavailable { .. } => {}
        other => panic!("{other}"),
    }
    let status = bench.wait(|status| status.state == RunnerState::Ready && status.pid != Some(pid)).await;
    assert!(status.resident.is_empty());
    assert_eq!(status.restarts_total, 1);
    assert_eq!(status.last_exit.as_deref(), Some("signal 9"));
    bench.load(&lease, &never).await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_be_opened_is_down_with_its_reason() {
    let tasks = Tasks::new();
    let config = RunnerConfig {
        device: "tpu:0".into(),
        memory_bytes: 0,
        program: PathBuf::from(env!("CARGO_BIN_EXE_gpu-worker")),
        log_filter: "off".into(),
    };
    let runner = Runner::supervise(config, &tasks);
    let mut status = runner.status();
    let down = status.wait_for(|status| matches!(status.state, RunnerState::Down { .. }));
    let status = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().clone();
    assert_eq!(status.state, RunnerState::Down { reason: "exit code 1".into() });
    assert!(tasks.stop_and_wait(PATIENCE).await);
}
