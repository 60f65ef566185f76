//! The coordinated load without stores: a file is read into the RAM tier, a runner process copies it to the device, what is
//! there is read back and hashed or looked at by another process, and everything is given back.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gpu_worker::runner::{DeviceLoad, DeviceTensor, Runner, RunnerConfig, RunnerState, unwatched};
use residency::{FileIdentity, IoOptions, Lease, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig};
use shared::{ids::ComponentId, shutdown::Tasks};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::share;

/// How long a device may take to open.
const OPENING: Duration = Duration::from_secs(60);

/// Loads `mib` MiB; what it took, in words.
///
/// # Errors
/// When a step fails, the digest differs, or memory does not come back.
pub(crate) fn through_a_runner(device: &str, worker: &Path, mib: u64) -> Result<String> {
    with_runner(device, worker, async |runner| {
        let step = Step::load(runner, mib << 20).await?;
        let digest = runner.digest(step.component).await?;
        ensure!(digest == step.lease.digest().to_string(), "the device holds other bytes than were read");
        let said = step.speeds();
        step.unload(runner).await?;
        Ok(said)
    })
}

/// Loads `mib` MiB, and another process looks at them by the driver's handle.
///
/// # Errors
/// When a step fails, it sees other bytes, or memory does not come back.
pub(crate) fn attached(device: &str, worker: &Path, mib: u64) -> Result<String> {
    with_runner(device, worker, async |runner| {
        let step = Step::load(runner, mib << 20).await?;
        let held = runner.share(step.component).await?;
        let cuda = held.cuda.as_ref().context("the device gave no handle")?;
        share::seen_by_another_process(device, cuda, &step.path)?;
        ensure!(runner.unload(step.component).await.is_err(), "memory that is open elsewhere was freed");
        drop(held);
        let mut status = runner.status();
        let given_back = status.wait_for(|status| status.resident.iter().all(|resident| resident.leases == 0));
        tokio::time::timeout(OPENING, given_back).await.context("the lease does not end")??;
        step.unload(runner).await?;
        Ok(format!("{mib} MiB; the bytes of the file, not freed while they were open"))
    })
}

fn with_runner(device: &str, worker: &Path, work: impl AsyncFnOnce(&Runner) -> Result<String>) -> Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let config = RunnerConfig {
            device: device.to_owned(),
            memory_bytes: 0,
            program: worker.to_owned(),
            onnxruntime: None,
            python: None,
            threads: None,
            log_filter: "warn".to_owned(),
        };
        let runner = Runner::supervise(config, unwatched(), &tasks);
        let mut status = runner.status();
        let ready = status.wait_for(|status| status.state == RunnerState::Ready);
        // what a wait returns locks the status: it must be gone before the work begins
        let ready = tokio::time::timeout(OPENING, ready).await.context("the runner does not get ready").map(drop);
        let told = match ready {
            Ok(()) => work(&runner).await,
            Err(error) => Err(error),
        };
        runner.stop(Duration::from_secs(5)).await;
        tasks.stop_and_wait(Duration::from_secs(5)).await;
        told
    })
}

/// A file that was read into RAM and copied to the device.
struct Step {
    path: PathBuf,
    lease: Lease,
    component: ComponentId,
    bytes: u64,
    on_device: u64,
    read_seconds: f64,
    copy_seconds: f64,
    _folder: TempDir,
}

impl Step {
    async fn load(runner: &Runner, bytes: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("weights");
        write(&path, bytes)?;
        let tier = RamTier::new(TierConfig::new(bytes * 2));
        let began = Instant::now();
        let lease = tier.acquire(request(&path, bytes)?, &CancellationToken::new()).await?;
        let read_seconds = began.elapsed().as_secs_f64();
        let component = lease.key().parse()?;
        let done = runner.load(device_load(&lease)?, |_| {}, &CancellationToken::new()).await?;
        let (on_device, copy_seconds) = (done.bytes, done.seconds);
        Ok(Self { path, lease, component, bytes, on_device, read_seconds, copy_seconds, _folder: folder })
    }

    async fn unload(self, runner: &Runner) -> Result<()> {
        let freed = runner.unload(self.component).await?;
        ensure!(freed == self.on_device, "{} bytes were loaded and {freed} freed", self.on_device);
        let left = runner.status().borrow().memory.used_bytes;
        ensure!(left == 0, "{left} bytes are still booked after the unload");
        Ok(())
    }

    fn speeds(&self) -> String {
        let speed = |seconds: f64| self.bytes as f64 / 1e9 / seconds;
        format!(
            "{} MiB; file to RAM with its digest {:.2} GB/s (page cache may help), RAM to device {:.2} GB/s; digest on the \
             device equal",
            self.bytes >> 20,
            speed(self.read_seconds),
            speed(self.copy_seconds),
        )
    }
}

fn write(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut block: Vec<u8> = (0..1_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for number in 0..bytes >> 20 {
        block.splice(..8, number.to_le_bytes());
        file.write_all(&block)?;
    }
    Ok(())
}

fn request(path: &Path, bytes: u64) -> Result<LoadRequest> {
    let tensor = TensorRange {
        name: "weight".into(),
        dtype: "U8".into(),
        shape: vec![bytes],
        file_index: 0,
        begin: 0,
        end: bytes,
    };
    Ok(LoadRequest {
        key: Arc::from(ComponentId::generate().to_string()),
        sources: vec![SourceFile { expected: FileIdentity::of(path)?, path: path.to_owned() }],
        tensors: vec![tensor],
        gathered: Vec::new(),
        expected_digest: None,
        wanted_by: None,
        io: IoOptions::default(),
    })
}

fn device_load(lease: &Lease) -> Result<DeviceLoad> {
    let tensors = lease.tensors().iter().map(|tensor| DeviceTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        offset: tensor.offset,
        len: tensor.len,
    });
    Ok(DeviceLoad {
        component: lease.key().parse()?,
        digest: lease.digest().to_string(),
        tensors: tensors.collect(),
        source: lease.fd_readonly()?,
        offset: lease.offset(),
        bytes: lease.bytes(),
    })
}
