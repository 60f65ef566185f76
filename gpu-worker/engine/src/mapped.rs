//! The one place of this crate that maps memory: a slab's sealed memory file, for reading.
#![expect(unsafe_code, reason = "mapping a file is unsafe; that it can neither change nor shrink is checked here")]

use std::{io, os::fd::AsFd};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};

/// A sealed memory file, mapped as a whole.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps `len` bytes of a memory file.
    ///
    /// # Errors
    /// `InvalidInput` unless it is sealed against writing and shrinking and has so many bytes; else what the system answers.
    pub(crate) fn open(file: impl AsFd, len: u64) -> io::Result<Self> {
        let file = file.as_fd();
        let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if !fcntl_get_seals(file)?.contains(SealFlags::SHRINK | SealFlags::WRITE) {
            return Err(refused("the slab's memory is not sealed"));
        }
        if u64::try_from(fstat(file)?.st_size).unwrap_or(0) < len {
            return Err(refused("the slab's memory is shorter than the slab"));
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let file = &file;
        // SAFETY: the seals checked above forbid for ever, to every process, to write to the file and to shrink it: the
        // bytes are immutable and every page of the range exists.
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
