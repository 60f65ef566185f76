//! The coordinated load without stores: a file is read into the RAM tier, a runner process copies it to the device, what is
//! there is read back and hashed, and everything is given back.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gpu_worker::runner::{DeviceLoad, DeviceTensor, Runner, RunnerConfig, RunnerState};
use residency::{FileIdentity, IoOptions, Lease, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig};
use shared::{ids::ComponentId, shutdown::Tasks};
use tokio_util::sync::CancellationToken;

/// How long a device may take to open.
const OPENING: Duration = Duration::from_secs(60);

/// Loads `mib` MiB; what it took, in words.
///
/// # Errors
/// When a step fails, the digest differs, or memory does not come back.
pub(crate) fn through_a_runner(device: &str, worker: &Path, mib: u64) -> Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let config = RunnerConfig {
            device: device.to_owned(),
            memory_bytes: 0,
            program: worker.to_owned(),
            log_filter: "warn".to_owned(),
        };
        let runner = Runner::supervise(config, &tasks);
        let told = loaded(&runner, mib << 20).await;
        runner.stop(Duration::from_secs(5)).await;
        tasks.stop_and_wait(Duration::from_secs(5)).await;
        told
    })
}

async fn loaded(runner: &Runner, bytes: u64) -> Result<String> {
    let mut status = runner.status();
    let ready = status.wait_for(|status| status.state == RunnerState::Ready);
    tokio::time::timeout(OPENING, ready).await.context("the runner does not get ready")??;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weights");
    write(&path, bytes)?;

    let tier = RamTier::new(TierConfig::new(bytes * 2));
    let began = Instant::now();
    let lease = tier.acquire(request(&path, bytes)?, &CancellationToken::new()).await?;
    let read = began.elapsed().as_secs_f64();
    let component = lease.key().parse()?;
    let done = runner.load(device_load(&lease)?, |_| {}, &CancellationToken::new()).await?;
    let digest = runner.digest(component).await?;
    ensure!(digest == lease.digest().to_string(), "the device holds other bytes than were read");
    let freed = runner.unload(component).await?;
    ensure!(freed == done.bytes, "{} bytes were loaded and {freed} freed", done.bytes);
    let left = runner.status().borrow().memory.used_bytes;
    ensure!(left == 0, "{left} bytes are still booked after the unload");
    let speed = |seconds: f64| bytes as f64 / 1e9 / seconds;
    Ok(format!(
        "{} MiB; file to RAM with its digest {:.2} GB/s (page cache may help), RAM to device {:.2} GB/s; digest on the device equal",
        bytes >> 20,
        speed(read),
        speed(done.seconds),
    ))
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
