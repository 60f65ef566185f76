//! The only place that maps memory: a sealed extent, for reading.
#![expect(unsafe_code, reason = "mapping a file is unsafe; that it can neither change nor shrink is checked here")]

use std::{io, ops::Deref, os::fd::AsFd};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};

/// A read-only view of a sealed extent, for the process that got its descriptor.
#[derive(Debug)]
pub struct ReadMap(Mmap);

impl ReadMap {
    /// Maps `len` bytes at `offset` of a sealed memory file.
    ///
    /// # Errors
    /// `InvalidInput` when the descriptor is not a memory file sealed against writing and shrinking,
    /// or the range lies beyond its end; otherwise what the system answers.
    pub fn open(fd: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        let fd = fd.as_fd();
        let seals = fcntl_get_seals(fd).map_err(|_| refused("not a memory file"))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::WRITE) {
            return Err(refused("the memory file is not sealed"));
        }
        let size = u64::try_from(fstat(fd)?.st_size).unwrap_or(0);
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(refused("the range lies beyond the end of the memory file"));
        }
        let fd = &fd;
        // SAFETY: the seals checked above forbid, for ever and for every process, writing to and
        // shrinking the file: the bytes are immutable and every page of the range exists.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map(fd)? };
        Ok(Self(map))
    }
}

impl Deref for ReadMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
