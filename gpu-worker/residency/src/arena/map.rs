//! The only place that maps memory: a draft for writing, a sealed extent for reading.
#![expect(
    unsafe_code,
    reason = "mapping a memory file is unsafe; its two callers' conditions are checked here"
)]

use std::{
    io,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd},
};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};

use super::HUGE;

/// A writable view of a draft extent. Dropping it unmaps; the bytes stay in the memory file.
#[derive(Debug)]
pub(super) struct WriteMap(MmapMut);

impl WriteMap {
    /// Maps a memory file that this process has just made and given to nobody.
    pub(super) fn of(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let seals = fcntl_get_seals(fd)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(io::Error::other(
                "the memory file is not sealed against resizing",
            ));
        }
        let fd = &fd;
        // SAFETY: the file is an anonymous memory file sealed against shrinking (checked above), so no
        // access can fault. The only caller (`Draft::map`) borrows the draft mutably and a draft's
        // descriptor is never handed out before it is sealed, so no other mapping of it exists.
        let map = unsafe { MmapOptions::new().len(len).map_mut(fd)? };
        if len as u64 >= HUGE {
            // A hint: a kernel that allows no huge pages for memory files answers with an error, and
            // ordinary pages are as right.
            let _ = map.advise(Advice::HugePage);
        }
        Ok(Self(map))
    }
}

impl Deref for WriteMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for WriteMap {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

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
