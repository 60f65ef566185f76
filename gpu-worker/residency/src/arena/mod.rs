//! Memory that belongs to the tier: one sealed memory file per component.
//!
//! Why one file each and not shared arenas: closing it gives every byte back to the system at once
//! (no fragmentation, no holes), the seals can cover the whole file (a reader can never see a byte
//! change, whatever it does), a reader's descriptor exposes one component and nothing else, and the
//! system's own figure for it (`st_blocks`) audits each component. The price is one descriptor per
//! component.
//!
//! Life of one: [`Draft`] (private, writable, size sealed) → [`Draft::seal`] → [`Extent`] (read-only
//! for ever) → dropped, memory back as soon as readers have let go of the descriptors they were given.

mod backing;
mod map;
#[cfg(test)]
mod tests;
mod trial;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak},
};

use backing::Backing;
use huge_pages::HUGE;
use trial::GROUP;

pub use map::ReadMap;
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, fstat, ftruncate,
        memfd_create, open,
    },
    io::{Errno, pwrite, retry_on_intr},
};

/// How often a file is tried to be sealed whose pages somebody looks at just then. The kernel waits for readers each time, a
/// tenth of a second and more; a copy to a device that follows the load reads the newest bytes right before that, and may be
/// kept from its processor meanwhile.
const SEALED_TRIES: u32 = 5;
/// Granularity of a small extent.
const PAGE: u64 = 4096;
/// From here on an extent is rounded to huge pages: at most 1/8 is lost to rounding.
const BIG: u64 = 16 << 20;

/// Bytes that an extent for `bytes` occupies; `None` on overflow. Never zero.
pub fn extent_len(bytes: u64) -> Option<u64> {
    let step = if bytes >= BIG { HUGE } else { PAGE };
    bytes.max(1).checked_next_multiple_of(step)
}

/// All memory files of one tier that are alive.
#[derive(Debug, Clone, Default)]
pub struct Arenas {
    live: Arc<Mutex<Live>>,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    files: BTreeMap<u64, Weak<OwnedFd>>,
}

impl Arenas {
    /// A new draft of `extent_len(bytes)` bytes, zeroed, not yet backed by pages.
    ///
    /// # Errors
    /// What the system answers: no descriptor, no memory.
    pub fn create(&self, bytes: u64) -> io::Result<Draft> {
        let len = extent_len(bytes).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let fd = memfd_create("modelyard", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        let fd = Arc::new(fd);
        let mut live = lock(&self.live);
        let id = live.next;
        live.next += 1;
        live.files.insert(id, Arc::downgrade(&fd));
        drop(live);
        let memory = Memory { fd, len, id, live: self.live.clone() };
        Ok(Draft { memory, gone: RwLock::new(false), backing: Backing::default(), writing: Mutex::default() })
    }

    /// Memory files alive, and the bytes that the system says are allocated for them.
    ///
    /// # Errors
    /// What `fstat` answers.
    pub fn allocated(&self) -> io::Result<(usize, u64)> {
        let files: Vec<_> = lock(&self.live).files.values().filter_map(Weak::upgrade).collect();
        let mut bytes = 0;
        for file in &files {
            bytes += u64::try_from(fstat(file)?.st_blocks).unwrap_or(0) * 512;
        }
        Ok((files.len(), bytes))
    }
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Memory {
    fd: Arc<OwnedFd>,
    len: u64,
    id: u64,
    live: Arc<Mutex<Live>>,
}

impl Memory {
    fn fd_readonly(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        lock(&self.live).files.remove(&self.id);
    }
}

/// An extent being written. Nobody else can see it.
#[derive(Debug)]
pub struct Draft {
    memory: Memory,
    /// Given up: its pages are back, and nothing may bring them here again.
    gone: RwLock<bool>,
    backing: Backing,
    writing: Mutex<()>,
}

impl Draft {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.memory.len
    }

    /// Never: an extent has at least one page.
    pub fn is_empty(&self) -> bool {
        self.memory.len == 0
    }

    /// Tells it from every other of its tier, also once it is sealed.
    pub fn id(&self) -> u64 {
        self.memory.id
    }

    /// A descriptor opened read-only, to be passed to another process. What it reads may still be written to, and is zero once
    /// the draft was discarded; no mapping of it may be made.
    ///
    /// # Errors
    /// What the system answers (no descriptor left, no `/proc`).
    pub fn fd_readonly(&self) -> io::Result<OwnedFd> {
        self.memory.fd_readonly()
    }

    /// Backs `begin..end` with pages, rounded outwards: memory that is not there is an error here and
    /// not a kill later, and the writes that follow find their pages.
    ///
    /// # Errors
    /// What the system answers, e.g. no memory.
    pub fn allocate(&self, begin: u64, end: u64) -> io::Result<()> {
        let _kept = self.kept()?;
        let begin = begin / PAGE * PAGE;
        let end = end.next_multiple_of(PAGE).min(self.memory.len);
        if begin < end {
            // a signal, of a child that ended for one, is no lack of memory
            retry_on_intr(|| fallocate(&self.memory.fd, FallocateFlags::empty(), begin, end - begin))?;
        }
        Ok(())
    }

    /// Makes the pages that are not made before `end`, huge ones where they are cheap, while others [`Draft::fill`] what is
    /// there already: not far ahead of the bytes that are filled in before `until`, and the rest once those have come. Ends
    /// early once they are not `wanted` any more. For one thread at a time.
    ///
    /// # Errors
    /// What the system answers, e.g. no memory.
    pub fn back(&self, until: u64, end: u64, wanted: impl Fn() -> bool) -> io::Result<()> {
        let end = end.checked_next_multiple_of(GROUP).unwrap_or(end).min(self.memory.len);
        match self.backing.make(&self.memory.fd, (self.memory.len, end, until), wanted, || self.kept()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            made => made,
        }
    }

    /// Lets `write` put bytes at `begin..end` once the pages are there. Written, not mapped: a page that is written as a whole
    /// needs neither a fault nor zeroing. One thread writes at a time: the kernel's lock on the memory file admits one, and
    /// the others would spin on it instead of hashing.
    ///
    /// # Errors
    /// What the system answers, e.g. no memory, or `write`.
    pub fn fill(&self, begin: u64, end: u64, write: impl FnOnce(&Self) -> io::Result<()>) -> io::Result<()> {
        if !self.backing.wait(begin, end) {
            self.allocate(begin, end)?;
        }
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write(self)
    }

    /// Writes at an offset. Callers on several threads write disjoint ranges.
    ///
    /// # Errors
    /// What the system answers; writing beyond the end is refused by the seals.
    pub fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        let _kept = self.kept()?;
        while !bytes.is_empty() {
            match pwrite(&self.memory.fd, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Keeps the pages until the guard is dropped; refuses when they were given up.
    fn kept(&self) -> io::Result<RwLockReadGuard<'_, bool>> {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        if *gone { Err(io::Error::other("the load was given up")) } else { Ok(gone) }
    }

    /// Gives every page back now, whoever still holds the draft: a thread that is stuck in a read does. Its writes are
    /// refused from here on.
    ///
    /// # Errors
    /// What the system answers; the pages are back at the latest when the last holder is gone.
    pub fn discard(&self) -> io::Result<()> {
        let mut gone = self.gone.write().unwrap_or_else(PoisonError::into_inner);
        *gone = true;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.memory.fd, flags, 0, self.memory.len)?)
    }

    /// Makes the bytes immutable, for this process too. What was not written is zero.
    ///
    /// # Errors
    /// What the system answers; the draft is dropped then.
    pub fn seal(self) -> io::Result<Extent> {
        self.seal_again(|| {})
    }

    /// The same, which says each time that somebody still looks at its pages and it is tried again.
    fn seal_again(self, mut busy: impl FnMut()) -> io::Result<Extent> {
        let mut tries = 1;
        loop {
            match fcntl_add_seals(&self.memory.fd, SealFlags::WRITE | SealFlags::SEAL) {
                Ok(()) => return Ok(Extent(self.memory)),
                Err(Errno::BUSY) if tries < SEALED_TRIES => tries += 1,
                Err(errno) => return Err(errno.into()),
            }
            busy();
        }
    }
}

/// Immutable memory of one component. Dropping it closes the file: the memory is back unless a reader
/// still holds a descriptor or a mapping.
#[derive(Debug)]
pub struct Extent(Memory);

impl Extent {
    /// Where the component begins in the file. Always zero today; readers must honour it.
    pub fn offset(&self) -> u64 {
        0
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Never: an extent has at least one page.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// A descriptor opened read-only, to be passed to another process.
    ///
    /// # Errors
    /// What the system answers (no descriptor left, no `/proc`).
    pub fn fd_readonly(&self) -> io::Result<OwnedFd> {
        self.0.fd_readonly()
    }

    /// Tells it from every other of its tier.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The bytes, mapped in this process.
    ///
    /// # Errors
    /// What the system answers.
    pub fn map(&self) -> io::Result<ReadMap> {
        let len = usize::try_from(self.0.len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        ReadMap::open(self.0.fd.as_fd(), 0, len)
    }
}
