//! Free memory that the machine has, and its host need not find first.
//!
//! In a virtual machine, memory that was free for some seconds may have been handed back to the host (free page reporting);
//! whoever takes it next waits for the host, many times as long as the work itself. That is no property of what is measured, so
//! a bench has the memory backed first, for every side alike.

use memmap2::{Advice, MmapOptions};

const PAGE: usize = 4096;

/// Has so many bytes backed, and free again.
///
/// # Errors
/// When the system has no memory for it.
pub(crate) fn back(bytes: usize) -> anyhow::Result<()> {
    let mut memory = MmapOptions::new().len(bytes).map_anon()?;
    // a hint; without it the same takes longer
    let _ = memory.advise(Advice::HugePage);
    for byte in memory.iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    Ok(())
}
