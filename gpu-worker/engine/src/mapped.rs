//! The one place of this crate that maps memory: the memory file of a slab, for reading by many or for writing by one.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe; that nobody changes or cuts it meanwhile is seen to here and by the device"
)]

use std::{io, os::fd::OwnedFd};

use memmap2::{Mmap, MmapMut, MmapOptions};
use rustix::fs::fstat;

/// The memory file of a slab. Its writable descriptor never leaves the device: other processes are given descriptors for
/// reading, after the file was sealed against every write.
#[derive(Debug)]
pub(crate) struct MemoryFile(OwnedFd);

impl MemoryFile {
    /// Takes a memory file over that nobody else has open.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// Its descriptor, for calls that neither write to it nor cut it: those are made by the device, while nothing is mapped.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Maps its first `len` bytes for reading. The device must not write to the file while the mapping lives.
    ///
    /// # Errors
    /// `InvalidInput` when it is shorter; else what the system answers.
    pub(crate) fn map(&self, len: u64) -> io::Result<Mapped> {
        let len = self.checked(len)?;
        // SAFETY: every page of the range exists, and nobody cuts the file: its only writable descriptor is this one. The
        // device that owns it neither writes to it nor maps it for writing while a mapping for reading lives.
        Ok(Mapped(unsafe { MmapOptions::new().len(len).map(&self.0)? }))
    }

    /// Maps its first `len` bytes for writing. While the mapping lives, the device must not use the file in any other way.
    ///
    /// # Errors
    /// `InvalidInput` when it is shorter, `PermissionDenied` when it is sealed; else what the system answers.
    pub(crate) fn map_mut(&self, len: u64) -> io::Result<MappedMut> {
        let len = self.checked(len)?;
        // SAFETY: every page of the range exists, and the only writable descriptor is this one: the device that owns it
        // makes one such mapping at a time, none beside one for reading, and writes nothing while it lives.
        Ok(MappedMut(unsafe { MmapOptions::new().len(len).map_mut(&self.0)? }))
    }

    fn checked(&self, len: u64) -> io::Result<usize> {
        if u64::try_from(fstat(&self.0)?.st_size).unwrap_or(0) < len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the slab's memory is shorter than the slab"));
        }
        usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

/// A slab's memory, mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
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

/// A slab's memory, mapped for writing.
#[derive(Debug)]
pub(crate) struct MappedMut(MmapMut);

impl MappedMut {
    /// The bytes.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
