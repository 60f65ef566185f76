//! The one place of this crate that maps memory: the memory file of a slab, for reading.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe; that nobody changes or cuts it meanwhile is seen to by its owner"
)]

use std::{io, os::fd::OwnedFd};

use memmap2::{Mmap, MmapOptions};

/// A slab's memory, mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps the first `len` bytes of a memory file, which has so many. For `MemoryFile`, whose descriptor nobody else has and
    /// which is neither cut nor, while a mapping lives, written to.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn of(file: &OwnedFd, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the only caller has seen that every page of the range exists, and owns the only writable descriptor: nobody
        // cuts the file. The device that owns it writes nothing and hands out no writer while a mapping lives (`CpuDevice`).
        Ok(Self(unsafe { MmapOptions::new().len(len).map(file)? }))
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
