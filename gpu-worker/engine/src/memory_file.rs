//! The memory file of a slab: written by one, read by many, sealed before another process has it.

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use huge_pages::{Asked, HUGE, Steps, Window, processor_time};
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
        ftruncate, memfd_create, open,
    },
    io::{Errno, pread, pwrite, retry_on_intr},
};

use crate::{
    lora::Sink,
    mapped::{Mapped, MappedMut},
};

/// Memory comes in pages.
pub(crate) const PAGE: u64 = 4096;
/// From here on a slab is made of huge pages where they are to be had.
const BIG: u64 = 16 << 20;
/// A step whose huge pages take longer is dearer than with ordinary ones: the system must first move others away. The rest of
/// the file gets ordinary ones then.
const PATIENCE: Duration = Duration::from_millis(60);
/// The same by the clock, where the system waits for something meanwhile.
const STALLED: Duration = Duration::from_millis(300);
/// Bytes promised between two looks at whether they are still wanted: the system takes some 20 ms for them.
const STEP: usize = 64 << 20;
/// What the system counts a file's memory in.
const BLOCK: u64 = 512;

/// A memory file. Its writable descriptor never leaves this value: other processes are given descriptors for reading, after the
/// file was sealed against every write.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    file: OwnedFd,
    /// No more huge pages are asked for: they were too dear, or the system has none.
    ordinary: AtomicBool,
    /// Bytes that it had as another slab: their pages are there.
    had: u64,
}

impl MemoryFile {
    /// A file of so many bytes, none of which the system has promised yet.
    pub(crate) fn new(bytes: u64) -> Result<Self, Errno> {
        let file = memfd_create("modelyard-device", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes)?;
        Ok(Self { file, ordinary: AtomicBool::new(bytes < BIG), had: 0 })
    }

    /// The same memory as a file of another length. What was in it stays there until it is overwritten.
    pub(crate) fn resized(self, bytes: u64) -> Result<Self, Errno> {
        let before = u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0);
        // only what has no holes may be written to as memory
        let had = if self.system_bytes()? >= before { before.min(bytes) } else { 0 };
        ftruncate(&self.file, bytes)?;
        let ordinary = self.ordinary.into_inner() || bytes < BIG;
        Ok(Self { file: self.file, ordinary: AtomicBool::new(ordinary), had })
    }

    /// Has the system promise all its pages now, not at the first touch; false when they are not wanted any more.
    pub(crate) fn promise_while(&self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<bool, Errno> {
        for begin in (0..bytes).step_by(STEP) {
            if !go_on() {
                return Ok(false);
            }
            let end = (begin + STEP as u64).min(bytes);
            self.huge(begin..end, go_on);
            // what got no huge page gets ordinary ones; pages reserved this way are not zeroed before the first whole-page write
            fallocate(&self.file, FallocateFlags::empty(), begin, end - begin)?;
        }
        Ok(true)
    }

    /// Asks for the whole huge pages of a range, which begins with one; for no more of this file once they were dear.
    fn huge(&self, range: Range<u64>, go_on: &mut dyn FnMut() -> bool) {
        let range = range.start..range.end / HUGE * HUGE;
        if range.is_empty() || self.ordinary.load(Ordering::Relaxed) {
            return;
        }
        // by the processor's time first: whoever computes beside others waits for his turn, which says nothing about pages
        let (began, before) = (Instant::now(), processor_time());
        let are_cheap = || began.elapsed() < STALLED && processor_time().saturating_sub(before) < PATIENCE;
        let mut go_on = || are_cheap() && go_on();
        let window = Window::open(&self.file, range.end);
        let asked = window.map(|window| Steps::default().collapse(&self.file, &window, range, &mut go_on));
        if !matches!(asked, Ok(Asked::Whole)) || !are_cheap() {
            self.ordinary.store(true, Ordering::Relaxed);
        }
    }

    /// Has the system promise what nobody wrote to.
    pub(crate) fn promise(&self, bytes: u64) -> io::Result<()> {
        if self.system_bytes()? < bytes {
            self.promise_while(bytes, &mut || true)?;
        }
        Ok(())
    }

    /// Bytes that the system has given it.
    pub(crate) fn system_bytes(&self) -> Result<u64, Errno> {
        Ok(u64::try_from(fstat(&self.file)?.st_blocks).unwrap_or(0) * BLOCK)
    }

    /// True once other processes may have it.
    pub(crate) fn is_sealed(&self) -> Result<bool, Errno> {
        Ok(fcntl_get_seals(&self.file)?.contains(SealFlags::WRITE))
    }

    /// A read-only descriptor of the file, which nobody can write to or cut any more.
    pub(crate) fn sealed(&self) -> Result<OwnedFd, Errno> {
        if !fcntl_get_seals(&self.file)?.contains(SealFlags::SEAL) {
            let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            fcntl_add_seals(&self.file, seals)?;
        }
        self.read_only()
    }

    fn read_only(&self) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Maps its first `len` bytes for reading; the mapping keeps the file from being written to.
    ///
    /// # Errors
    /// What the system answers, or that it is shorter.
    pub(crate) fn map(self: &Arc<Self>, len: u64) -> io::Result<Mapped> {
        if u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0) < len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the slab's memory is shorter than the slab"));
        }
        // a mapping that could be made writable would keep the file from being sealed
        Mapped::of(&self.read_only()?, len)
    }

    /// Maps its first `len` bytes for the slab's writer, where they were another slab's. None of what is new: its pages were just
    /// cleared and are in the processor's caches, where writing through the descriptor finds them. And none where pages are ordinary
    /// ones, each of which costs a fault.
    ///
    /// # Errors
    /// As [`MemoryFile::map`].
    pub(crate) fn map_mut(&self, len: u64) -> io::Result<Option<MappedMut>> {
        if self.had == 0 || self.ordinary.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0) < len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the slab's memory is shorter than the slab"));
        }
        MappedMut::of(&self.file, len).map(Some)
    }
}

/// Written to by the device, or by the one writer that the device has handed out, never while it is mapped.
impl Sink for MemoryFile {
    fn expect(&self, range: Range<u64>) -> bool {
        if range.end <= self.had {
            return true;
        }
        let size = fstat(&self.file).ok().and_then(|of| u64::try_from(of.st_size).ok()).unwrap_or(0);
        let end = range.end.next_multiple_of(HUGE).min(size);
        for begin in (range.start.max(self.had) / HUGE * HUGE..end).step_by(STEP) {
            self.huge(begin..end.min(begin + STEP as u64), &mut || true);
        }
        false
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let written = retry_on_intr(|| pwrite(&self.file, rest, at))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let read = retry_on_intr(|| pread(&self.file, &mut *rest, at + done as u64))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += read;
        }
        Ok(())
    }
}
