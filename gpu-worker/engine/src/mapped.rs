//! The one place of this crate that maps memory: the memory file of a slab, for reading, or for the one that writes it.
#![expect(
    unsafe_code,
    reason = "memory of a file is only bytes as long as nobody changes or cuts it meanwhile, which is seen to by its owner"
)]

use std::{io, os::fd::OwnedFd, slice};

use huge_pages::{Access, Aligned};

/// A slab's memory, mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapped(Aligned);

impl Mapped {
    /// Maps the first `len` bytes of a memory file, which has so many. For `MemoryFile`, whose descriptor nobody else has and
    /// which is neither cut nor, while a mapping lives, written to.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn of(file: &OwnedFd, len: u64) -> io::Result<Self> {
        Aligned::map(file, len, Access::Read).map(Self)
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the only caller has seen that the file is as long, and owns the only writable descriptor: nobody cuts the
        // file. The device that owns it writes nothing and hands out no writer while a mapping lives (`CpuDevice`). The
        // addresses stay as long as `self`.
        unsafe { slice::from_raw_parts(self.0.address().cast(), self.0.len()) }
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// A slab's memory, mapped for the one that writes it.
#[derive(Debug)]
pub(crate) struct MappedMut(Aligned);

impl MappedMut {
    /// Maps the first `len` bytes of a memory file, which has so many. For the slab's one writer, while the device lets nobody look
    /// at it.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn of(file: &OwnedFd, len: u64) -> io::Result<Self> {
        Aligned::map(file, len, Access::Write).map(Self)
    }

    /// The bytes. Where the system has not promised a page yet, touching it may end the process: `Sink::expect` tells.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as of `Mapped`, and the device hands out one writer at a time and no view beside it (`CpuDevice::writer`). What
        // that one writes through the descriptor instead lies where nobody has a part of this slice any more (`parallel::open`).
        unsafe { slice::from_raw_parts_mut(self.0.address().cast(), self.0.len()) }
    }
}
