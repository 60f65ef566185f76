//! The limit: the file read around the page cache with nothing done to the bytes. 8 MiB a read, four reads in flight.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{fs::OFlags, io::pread};

const READ_BYTES: usize = 8 << 20;
const IN_FLIGHT: usize = 4;
const ALIGN: usize = 4096;

/// Reads all of the file; answers its bytes.
///
/// # Errors
/// What the file system answers; among others when it takes no direct reads.
pub(crate) fn read(path: &Path) -> anyhow::Result<u64> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path)?;
    let (next, total) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = || -> Result<(), rustix::io::Errno> {
            let mut memory = vec![0; READ_BYTES + ALIGN];
            let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
            let Some(room) = memory.get_mut(start..start + READ_BYTES) else { return Err(rustix::io::Errno::INVAL) };
            loop {
                let got = pread(&file, &mut *room, next.fetch_add(READ_BYTES as u64, Ordering::Relaxed))?;
                total.fetch_add(got as u64, Ordering::Relaxed);
                if got < READ_BYTES {
                    return Ok(());
                }
            }
        };
        let readers: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(reader)).collect();
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    let (read, expected) = (total.into_inner(), file.metadata()?.len());
    anyhow::ensure!(read == expected, "read {read} of {expected} bytes");
    Ok(read)
}
