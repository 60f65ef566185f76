//! A runner process, a RAM tier beside it, and components with known bytes.

use std::{fs::File, io::Write, path::PathBuf, sync::Arc, time::Duration};

use gpu_worker::runner::{
    DeviceLoad, DeviceTensor, Runner, RunnerConfig, RunnerError, RunnerState, RunnerStatus, unwatched,
};
use residency::{FileIdentity, IoOptions, Lease, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig};
use shared::{ids::ComponentId, shutdown::Tasks};
use tokio_util::sync::CancellationToken;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A runner on `cpu:0` and a RAM tier to load from.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    tier: RamTier,
    tasks: Tasks,
    pub(crate) runner: Runner,
}

impl Bench {
    pub(crate) async fn new(memory_bytes: u64) -> Self {
        let tasks = Tasks::new();
        let runner = Runner::supervise(config("cpu:0", memory_bytes), unwatched(), &tasks);
        let tier = RamTier::new(TierConfig::new(1 << 30));
        let bench = Self { folder: tempfile::tempdir().unwrap(), tier, tasks, runner };
        bench.wait(|status| status.state == RunnerState::Ready).await;
        bench
    }

    pub(crate) async fn wait(&self, holds: impl FnMut(&RunnerStatus) -> bool) -> RunnerStatus {
        let mut status = self.runner.status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(holds)).await;
        found.unwrap_or_else(|_| panic!("waited too long: {:?}", self.runner.status().borrow())).unwrap().clone()
    }

    /// A component of two tensors in RAM.
    pub(crate) async fn component(&self, name: &str, bytes: u64) -> Lease {
        let cut = bytes / 3;
        self.component_of(name, &[("a", "U8", &[cut]), ("b", "U8", &[bytes - cut])], |file| {
            write_pattern(file, name, bytes)
        })
        .await
    }

    /// A component of these tensors in RAM: names, types, shapes; `write` writes their bytes, one behind the other.
    pub(crate) async fn component_of(
        &self,
        name: &str,
        tensors: &[(&str, &str, &[u64])],
        write: impl FnOnce(&mut File),
    ) -> Lease {
        let path = self.folder.path().join(name);
        write(&mut File::create(&path).unwrap());
        let mut begin = 0;
        let ranges = tensors.iter().map(|(name, dtype, shape)| {
            let each = if *dtype == "U8" { 1 } else { 2 };
            let end = begin + shape.iter().product::<u64>() * each;
            let range = TensorRange {
                name: (*name).into(),
                dtype: (*dtype).into(),
                shape: shape.to_vec(),
                file_index: 0,
                begin,
                end,
            };
            begin = end;
            range
        });
        let tensors = ranges.collect();
        let request = LoadRequest {
            key: Arc::from(ComponentId::generate().to_string()),
            sources: vec![SourceFile { expected: FileIdentity::of(&path).unwrap(), path }],
            tensors,
            gathered: Vec::new(),
            expected_digest: None,
            wanted_by: None,
            io: IoOptions::default(),
        };
        self.tier.acquire(request, &CancellationToken::new()).await.unwrap()
    }

    pub(crate) async fn load(&self, lease: &Lease, cancel: &CancellationToken) -> Result<u64, RunnerError> {
        let loaded = self.runner.load(device_load(lease), |_| {}, cancel).await?;
        Ok(loaded.bytes)
    }

    pub(crate) async fn end(self) {
        self.runner.stop(Duration::from_secs(5)).await;
        assert!(self.tasks.stop_and_wait(PATIENCE).await);
    }
}

pub(crate) fn id(lease: &Lease) -> ComponentId {
    lease.key().parse().unwrap()
}

pub(crate) fn device_load(lease: &Lease) -> DeviceLoad {
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

pub(crate) fn pid_of(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid_of(pid), signal).unwrap();
}

pub(crate) fn config(device: &str, memory_bytes: u64) -> RunnerConfig {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_gpu-worker"));
    let log_filter = "off".into();
    RunnerConfig {
        device: device.into(),
        memory_bytes,
        program,
        onnxruntime: None,
        python: None,
        threads: None,
        log_filter,
    }
}

/// Bytes that differ from name to name and from block to block.
fn write_pattern(file: &mut File, name: &str, bytes: u64) {
    let seed = name.bytes().map(u64::from).sum::<u64>();
    let mut block: Vec<u8> = (0..MIB).map(|index| (index.wrapping_mul(seed | 1) >> 7) as u8).collect();
    let mut left = bytes;
    while left > 0 {
        block[..8].copy_from_slice(&left.to_le_bytes());
        let length = left.min(MIB);
        file.write_all(&block[..length as usize]).unwrap();
        left -= length;
    }
}
