//! Asks the kernel for huge pages under a memory file, through address space that nobody reads or writes.
#![expect(unsafe_code, reason = "mapping and advising are unsafe; nothing is ever accessed through this mapping")]

use std::{
    ffi::c_void,
    io,
    os::fd::AsFd,
    ptr::{null_mut, with_exposed_provenance_mut},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::HUGE;

/// `MADV_COLLAPSE` of Linux 6.1: put what a range holds, and its holes as zeros, into a huge page now. It does so whatever
/// the system's setting of huge pages for memory files is, but `deny`. The constant is not in every C library's headers yet.
const MADV_COLLAPSE: i32 = 25;

/// Inaccessible address space over a whole memory file, aligned so that its huge pages can be mapped.
#[derive(Debug)]
pub struct Window {
    /// First address that was reserved, and how many bytes.
    reserved: (usize, usize),
    /// Where the file begins: the first multiple of a huge page in there.
    base: usize,
    len: usize,
}

impl Window {
    /// Over the first `len` bytes of the file; no page is touched.
    ///
    /// # Errors
    /// What the system answers, e.g. that no address space is left.
    pub fn open(file: impl AsFd, len: u64) -> io::Result<Self> {
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(len).map_err(|_| too_long())?;
        let room = len.checked_add(HUGE as usize).ok_or_else(too_long)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let begin = unsafe { mmap_anonymous(null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let begin = begin.expose_provenance();
        let window = Self { reserved: (begin, room), base: begin.next_multiple_of(HUGE as usize), len };
        let at = with_exposed_provenance_mut::<c_void>(window.base);
        // SAFETY: `at..at + len` lies in what was just reserved for it and is known to nobody else; without access rights
        // the new mapping cannot be read or written, so what happens to the file's bytes does not matter to it.
        unsafe { mmap(at, len, ProtFlags::empty(), MapFlags::SHARED | MapFlags::FIXED, file, 0)? };
        Ok(window)
    }

    /// Puts `len` bytes of the file from `offset` on, both multiples of a huge page, into huge ones. At least one ordinary page
    /// of each must be there; the others become zeros. Many at a time cost less than one by one.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel does not do that here at all or the range lies beyond the window; other errors are
    /// of this range only: no huge page is free and none can be made. Some of them may have been made.
    pub fn collapse(&self, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = (usize::try_from(offset).unwrap_or(usize::MAX), usize::try_from(len).unwrap_or(usize::MAX));
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(HUGE as usize) || !len.is_multiple_of(HUGE as usize) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if len == 0 {
            return Ok(());
        }
        let at = with_exposed_provenance_mut::<c_void>(self.base + offset);
        // SAFETY: the range lies within this mapping; the advice moves bytes of the file to other pages and changes none.
        let answer = unsafe { libc::madvise(at, len, MADV_COLLAPSE) };
        let result = if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: as above; the file keeps its pages, only this process' view of them goes, which would count as its memory.
        unsafe { libc::madvise(at, len, libc::MADV_DONTNEED) };
        result
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let (begin, len) = self.reserved;
        // SAFETY: exactly what `open` reserved, of which nothing was handed out. That a mapping of one's own goes cannot fail.
        let _ = unsafe { munmap(with_exposed_provenance_mut(begin), len) };
    }
}
