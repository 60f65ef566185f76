//! The limit: the file read around the page cache with nothing done to the bytes, at several depths; the best one counts.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{Advice, MmapOptions};
use rustix::{fs::OFlags, io::pread};

const ALIGN: usize = 4096;
const HUGE: usize = 2 << 20;

/// One way to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Its name in the table.
    pub what: &'static str,
    /// Bytes of one read.
    pub read_bytes: usize,
    /// Reads in flight.
    pub in_flight: usize,
    /// Into huge pages.
    pub huge: bool,
}

/// The ways that are tried.
pub(crate) const DEPTHS: [Depth; 4] = [
    Depth { what: "raw direct read, 8 MiB × 4, ordinary pages", read_bytes: 8 << 20, in_flight: 4, huge: false },
    Depth { what: "raw direct read, 2 MiB × 8, huge pages", read_bytes: 2 << 20, in_flight: 8, huge: true },
    Depth { what: "raw direct read, 8 MiB × 4, huge pages", read_bytes: 8 << 20, in_flight: 4, huge: true },
    Depth { what: "raw direct read, 8 MiB × 16, huge pages", read_bytes: 8 << 20, in_flight: 16, huge: true },
];

/// Reads all of the file; answers its bytes.
///
/// # Errors
/// What the file system answers; among others when it takes no direct reads.
pub(crate) fn read(path: &Path, depth: Depth) -> anyhow::Result<u64> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path)?;
    let (next, total) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = || -> anyhow::Result<()> {
            let align = if depth.huge { HUGE } else { ALIGN };
            let mut memory = MmapOptions::new().len(depth.read_bytes + align).map_anon()?;
            let start = memory.as_ptr().align_offset(align).min(align);
            if depth.huge {
                memory.advise_range(Advice::HugePage, start, depth.read_bytes)?;
            }
            let room = memory.get_mut(start..start + depth.read_bytes).unwrap_or_default();
            loop {
                let got = pread(&file, &mut *room, next.fetch_add(depth.read_bytes as u64, Ordering::Relaxed))?;
                total.fetch_add(got as u64, Ordering::Relaxed);
                if got < depth.read_bytes {
                    return Ok(());
                }
            }
        };
        let readers: Vec<_> = (0..depth.in_flight).map(|_| scope.spawn(reader)).collect();
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    let (read, expected) = (total.into_inner(), file.metadata()?.len());
    anyhow::ensure!(read == expected, "read {read} of {expected} bytes");
    Ok(read)
}
