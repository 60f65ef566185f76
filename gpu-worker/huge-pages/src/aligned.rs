//! Address space over a memory file that begins where a huge page may: what is not aligned so is mapped page by page, with a fault for each.
#![expect(unsafe_code, reason = "mapping is unsafe; what is behind the addresses is its caller's matter")]

use std::{
    ffi::c_void,
    io,
    os::fd::AsFd,
    ptr::{null_mut, with_exposed_provenance_mut},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::HUGE;

/// What may be done through such addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the system is only asked about them.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// The first bytes of a file, mapped for all to see; gone when this is dropped.
#[derive(Debug)]
pub struct Aligned {
    /// First address that was reserved, and how many bytes.
    reserved: (usize, usize),
    /// Where the file begins: the first multiple of a huge page in there.
    base: usize,
    len: usize,
}

impl Aligned {
    /// Maps the first `len` bytes of the file; no page is touched.
    ///
    /// # Errors
    /// What the system answers, e.g. that no address space is left.
    pub fn map(file: impl AsFd, len: u64, access: Access) -> io::Result<Self> {
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(len).map_err(|_| too_long())?;
        let room = len.checked_add(HUGE as usize).ok_or_else(too_long)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let begin = unsafe { mmap_anonymous(null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let begin = begin.expose_provenance();
        let aligned = Self { reserved: (begin, room), base: begin.next_multiple_of(HUGE as usize), len };
        let may = match access {
            Access::None => ProtFlags::empty(),
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: `base..base + len` lies in what was just reserved for it and is known to nobody else.
        unsafe { mmap(aligned.address(), len, may, MapFlags::SHARED | MapFlags::FIXED, file, 0)? };
        Ok(aligned)
    }

    /// Where the file's first byte is.
    pub fn address(&self) -> *mut c_void {
        with_exposed_provenance_mut(self.base)
    }

    /// Bytes of the file that are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether these are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        let (begin, len) = self.reserved;
        // SAFETY: exactly what `map` reserved; whoever made a reference into it keeps this value as long. That a mapping of one's own
        // goes cannot fail.
        let _ = unsafe { munmap(with_exposed_provenance_mut(begin), len) };
    }
}
