//! Makes a file cold.

use std::{fs, path::Path};

use rustix::fs::{Advice, fadvise};

/// Drops the whole page cache as root, else the file's pages; says which.
///
/// # Errors
/// What the file system answers.
pub(crate) fn drop_pages(path: &Path) -> anyhow::Result<&'static str> {
    let file = fs::File::open(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(match fs::write("/proc/sys/vm/drop_caches", "1") {
        Ok(()) => "whole page cache dropped",
        Err(_) => "pages of the file dropped",
    })
}
