//! Makes a file cold.

use std::{fs, path::Path};

use rustix::fs::{Advice, fadvise};

/// Drops the file's pages, and as root the `whole` page cache where that is wanted; says which.
///
/// # Errors
/// What the file system answers.
pub(crate) fn drop_pages(path: &Path, whole: bool) -> anyhow::Result<&'static str> {
    let file = fs::File::open(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    if !whole {
        return Ok("pages of the file dropped, memory full of other pages");
    }
    Ok(match fs::write("/proc/sys/vm/drop_caches", "1") {
        Ok(()) => "whole page cache dropped",
        Err(_) => "pages of the file dropped",
    })
}
