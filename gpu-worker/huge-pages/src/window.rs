//! Asks the kernel for huge pages under a memory file, through address space that nobody reads or writes.
#![expect(unsafe_code, reason = "advising is unsafe; nothing is ever accessed through this mapping")]

use std::{io, os::fd::AsFd};

use crate::{Access, Aligned, HUGE};

/// `MADV_COLLAPSE` of Linux 6.1: put what a range holds, and its holes as zeros, into a huge page now. It does so whatever
/// the system's setting of huge pages for memory files is, but `deny`. The constant is not in every C library's headers yet.
const MADV_COLLAPSE: i32 = 25;

/// Inaccessible address space over a whole memory file.
#[derive(Debug)]
pub struct Window(Aligned);

impl Window {
    /// Over the first `len` bytes of the file; no page is touched.
    ///
    /// # Errors
    /// What the system answers, e.g. that no address space is left.
    pub fn open(file: impl AsFd, len: u64) -> io::Result<Self> {
        Aligned::map(file, len, Access::None).map(Self)
    }

    /// Puts `len` bytes of the file from `offset` on, both multiples of a huge page, into huge ones. At least one ordinary page
    /// of each must be there; the others become zeros. Many at a time cost less than one by one.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel does not do that here at all or the range lies beyond the window; other errors are
    /// of this range only: no huge page is free and none can be made. Some of them may have been made.
    pub fn collapse(&self, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = (usize::try_from(offset).unwrap_or(usize::MAX), usize::try_from(len).unwrap_or(usize::MAX));
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.0.len());
        if !inside || !offset.is_multiple_of(HUGE as usize) || !len.is_multiple_of(HUGE as usize) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if len == 0 {
            return Ok(());
        }
        let at = self.0.address().wrapping_byte_add(offset);
        // SAFETY: the range lies within this mapping; the advice moves bytes of the file to other pages and changes none.
        let answer = unsafe { libc::madvise(at, len, MADV_COLLAPSE) };
        let result = if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: as above; the file keeps its pages, only this process' view of them goes, which would count as its memory.
        unsafe { libc::madvise(at, len, libc::MADV_DONTNEED) };
        result
    }
}
