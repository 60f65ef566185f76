//! The second process of an attach: opens the memory of a device by its handle and compares it with a file.
#![expect(unsafe_code, reason = "opening a handle is an unsafe call of the driver")]

use std::{path::Path, process::Command};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cudarc::driver::{
    CudaContext, DriverError,
    result::memcpy_dtoh_sync,
    sys::{CUipcMemHandle, cuIpcCloseMemHandle, cuIpcOpenMemHandle_v2},
};
use engine::CudaShare;

use crate::ordinal;

/// Peer access is enabled when it is needed.
const LAZY_PEER_ACCESS: u32 = 1;

/// Starts this program again as another process, which looks at the shared memory.
///
/// # Errors
/// When it cannot open the memory, or finds other bytes there.
pub(crate) fn seen_by_another_process(device: &str, share: &CudaShare, like: &Path) -> Result<()> {
    let handle: String = share.handle.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new(std::env::current_exe()?)
        .args(["--device", device, "--worker", "none", "--open", &handle])
        .args(["--offset", &share.offset.to_string(), "--like"])
        .arg(like)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the second process: {}", said.trim());
    Ok(())
}

/// The second process.
///
/// # Errors
/// As [`seen_by_another_process`].
pub(crate) fn look(device: &str, handle: &str, offset: u64, like: &Path) -> Result<()> {
    let expected = std::fs::read(like)?;
    let context = CudaContext::new(ordinal(device)?).map_err(driver)?;
    context.bind_to_thread().map_err(driver)?;
    let mut theirs = CUipcMemHandle { reserved: [0; 64] };
    for (place, byte) in theirs.reserved.iter_mut().zip(bytes_of(handle)?) {
        *place = byte.cast_signed();
    }
    let mut base = 0;
    let mut seen = vec![0; expected.len()];
    // SAFETY: the handle is whole, as the driver made it; the memory behind it lives until the other process is told that this
    // one ended, and holds as many bytes as the file.
    unsafe {
        cuIpcOpenMemHandle_v2(&mut base, theirs, LAZY_PEER_ACCESS).result().map_err(driver)?;
        memcpy_dtoh_sync(&mut seen, base + offset).map_err(driver)?;
        cuIpcCloseMemHandle(base).result().map_err(driver)?;
    }
    if seen != expected {
        bail!("other bytes than in the file");
    }
    Ok(())
}

fn driver(DriverError(code): DriverError) -> anyhow::Error {
    anyhow!("the driver answers {code:?}")
}

fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(|at| pair(at).context("a handle is written as pairs of hex digits")).collect()
}
