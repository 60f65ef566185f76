//! Memory that the machine has, held while nothing is measured.
//!
//! In a virtual machine, memory that was free for two seconds is handed back to the host (free page reporting), and whoever takes it
//! next waits for the host. Two seconds after some became free the kernel looks at all that is free then: memory that was backed
//! and given back right before a measurement may be gone in its middle. So it is kept from one measurement to the next, and
//! let go when that look is over.

use std::{thread, time::Duration};

use memmap2::{Advice, MmapMut, MmapOptions};

const PAGE: usize = 4096;
/// After so long, what became free before is reported, and there is nothing to report for a while.
const REPORTED: Duration = Duration::from_millis(2600);

/// The memory, which only is to be there.
#[derive(Debug)]
pub(crate) struct Ballast(#[expect(dead_code, reason = "nobody reads it")] MmapMut);

impl Ballast {
    /// Takes so many bytes.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub(crate) fn take(bytes: usize) -> anyhow::Result<Self> {
        let mut memory = MmapOptions::new().len(bytes).map_anon()?;
        // a hint; without it the same takes longer
        let _ = memory.advise(Advice::HugePage);
        for byte in memory.iter_mut().step_by(PAGE) {
            *byte = 1;
        }
        Ok(Self(memory))
    }

    /// Gives it to whoever is measured next, who has two seconds to take it.
    pub(crate) fn let_go(self) {
        thread::sleep(REPORTED);
        drop(self);
    }
}
