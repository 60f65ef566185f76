//! Memory that is full of the page cache before a load, and the kernel's figures of it.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Free bytes at which memory counts as full of the page cache: the kernel keeps about that many.
const FULL: u64 = 400 << 20;

/// Fills memory with pages of a file in `dir` that has no blocks.
///
/// # Errors
/// What the file system answers.
pub(crate) fn fill_page_cache(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("pressure");
    let total = kernel_bytes("MemTotal")?;
    let file = File::options().write(true).create(true).truncate(false).open(&path)?;
    file.set_len(total)?;
    let mut file = File::open(&path)?;
    let mut room = vec![0; 8 << 20];
    while kernel_bytes("MemFree")? > FULL && file.read(&mut room)? > 0 {}
    Ok(())
}

/// A figure of the kernel's memory, in bytes.
///
/// # Errors
/// When `/proc/meminfo` does not say.
pub(crate) fn kernel_bytes(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    let kib: u64 = kib.ok_or_else(|| anyhow::anyhow!("/proc/meminfo has no `{name}`"))?.parse()?;
    Ok(kib * 1024)
}
