//! `cpu:0`: a bounded arena of host memory. Each slab is a memory file of its own, so that freeing it gives every byte
//! back at once, and so that the system's own figure for it can be compared with the ledger.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use huge_pages::{HUGE, Window};
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
        ftruncate, memfd_create, open,
    },
    io::{Errno, pread, pwrite, retry_on_intr},
};

use crate::{
    SlabView, SlabWriter,
    device::{ALIGN, Device, DeviceError, DeviceFacts, DeviceMemory, Share, SlabId, check_range},
    mapped::{Mapped, MemoryFile},
};

/// Memory comes in pages.
const PAGE: u64 = 4096;
/// From here on a slab is made of huge pages where they are to be had.
const BIG: u64 = 16 << 20;
/// A step whose huge pages take longer is dearer than with ordinary ones: the system must first move others away.
const PATIENCE: Duration = Duration::from_millis(60);
/// Bytes promised between two looks at whether they are still wanted: the system takes some 20 ms for them.
const STEP: usize = 64 << 20;

/// The CPU as a device.
#[derive(Debug)]
pub struct CpuDevice {
    facts: DeviceFacts,
    slabs: BTreeMap<u64, Slab>,
    next: u64,
    used_bytes: u64,
}

#[derive(Debug)]
struct Slab {
    file: MemoryFile,
    bytes: u64,
    /// Kept once it was made: looking at every page again would cost each run half a second for a large model.
    map: Option<Arc<Mapped>>,
    /// Lives while somebody writes to it from another thread.
    writer: Weak<()>,
}

impl Slab {
    /// Whether somebody looks at it or writes to it.
    fn in_use(&self) -> bool {
        self.is_written() || self.map.as_ref().is_some_and(|map| Arc::strong_count(map) > 1)
    }

    fn is_written(&self) -> bool {
        self.writer.strong_count() > 0
    }
}

impl CpuDevice {
    /// A device of `capacity_bytes` bytes.
    pub fn new(capacity_bytes: u64) -> Self {
        let facts = DeviceFacts {
            name: "cpu:0".to_owned(),
            kind: "cpu".to_owned(),
            uuid: None,
            product: product(),
            capacity_bytes,
            align_bytes: ALIGN,
        };
        Self { facts, slabs: BTreeMap::new(), next: 0, used_bytes: 0 }
    }

    fn available(&self) -> u64 {
        self.facts.capacity_bytes.saturating_sub(self.used_bytes)
    }

    fn out_of_memory(&self, needed_bytes: u64) -> DeviceError {
        DeviceError::OutOfMemory {
            needed_bytes,
            available_bytes: self.available(),
            capacity_bytes: self.facts.capacity_bytes,
        }
    }

    fn slab(&self, id: SlabId) -> Result<&Slab, DeviceError> {
        self.slabs.get(&id.0).ok_or(DeviceError::NoSlab(id))
    }

    fn slab_mut(&mut self, id: SlabId) -> Result<&mut Slab, DeviceError> {
        self.slabs.get_mut(&id.0).ok_or(DeviceError::NoSlab(id))
    }

    /// A slab that nobody uses, and that is mapped nowhere from here on.
    fn idle(&mut self, id: SlabId) -> Result<&mut Slab, DeviceError> {
        let slab = self.slab_mut(id)?;
        if slab.in_use() {
            return Err(DeviceError::InUse(id));
        }
        slab.map = None;
        Ok(slab)
    }
}

/// The processor's name, as `/proc/cpuinfo` says it.
fn product() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn system(what: &'static str) -> impl Fn(Errno) -> DeviceError {
    move |error| DeviceError::System { what, source: error.into() }
}

/// A memory file whose pages are promised by the system now, not at the first touch.
/// None when they are not wanted any more.
fn memory_file(bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<Option<OwnedFd>, Errno> {
    let file = memfd_create("modelyard-device", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, bytes)?;
    let mut window = Window::open(&file, bytes / HUGE * HUGE).ok().filter(|_| bytes >= BIG);
    for begin in (0..bytes).step_by(STEP) {
        if !go_on() {
            return Ok(None);
        }
        if window.as_ref().is_some_and(|window| !huge(&file, window, begin, bytes)) {
            window = None;
        }
        // pages reserved this way are not zeroed before the first whole-page write
        fallocate(&file, FallocateFlags::empty(), begin, (STEP as u64).min(bytes - begin))?;
    }
    Ok(Some(file))
}

/// Asks for the huge pages of one step; whether to ask for those of the next. What gets none gets ordinary ones.
fn huge(file: &OwnedFd, window: &Window, begin: u64, bytes: u64) -> bool {
    let (began, end) = (Instant::now(), (begin + STEP as u64).min(bytes / HUGE * HUGE));
    for unit in (begin..end).step_by(HUGE as usize) {
        // one page of each must be there; that there is no memory at all is found out by who allocates the rest
        let there = fallocate(file, FallocateFlags::empty(), unit, PAGE);
        if there.is_ok() && window.collapse(unit).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
            return false;
        }
    }
    began.elapsed() < PATIENCE
}

/// A read-only descriptor of the file, which nobody can write to or cut any more.
fn sealed(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    if !fcntl_get_seals(file)?.contains(SealFlags::SEAL) {
        fcntl_add_seals(file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

impl Device for CpuDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let mut system_bytes = 0;
        for slab in self.slabs.values() {
            let stat = fstat(slab.file.fd()).map_err(system("asking for a slab's size"))?;
            system_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Ok(DeviceMemory { capacity_bytes: self.facts.capacity_bytes, used_bytes: self.used_bytes, system_bytes })
    }

    fn allocate_while(&mut self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError> {
        let Some(rounded) = bytes.max(1).checked_next_multiple_of(PAGE) else { return Err(self.out_of_memory(bytes)) };
        if rounded > self.available() {
            return Err(self.out_of_memory(rounded));
        }
        let file = match memory_file(rounded, go_on) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(DeviceError::Interrupted),
            // the system has less than the budget promised
            Err(Errno::NOMEM | Errno::NOSPC) => return Err(self.out_of_memory(rounded)),
            Err(error) => return Err(system("allocating a slab")(error)),
        };
        let id = self.next;
        self.next += 1;
        self.used_bytes += rounded;
        self.slabs.insert(id, Slab { file: MemoryFile::new(file), bytes: rounded, map: None, writer: Weak::new() });
        Ok(SlabId(id))
    }

    fn slab_bytes(&self, slab: SlabId) -> Result<u64, DeviceError> {
        Ok(self.slab(slab)?.bytes)
    }

    fn write(&mut self, slab: SlabId, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        check_range(offset, data.len(), self.slab(slab)?.bytes)?;
        let slab = self.idle(slab)?;
        let (mut offset, mut rest) = (offset, data);
        while !rest.is_empty() {
            let written =
                retry_on_intr(|| pwrite(slab.file.fd(), rest, offset)).map_err(system("writing to a slab"))?;
            if written == 0 {
                return Err(system("writing to a slab")(Errno::IO));
            }
            offset += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn read(&mut self, slab: SlabId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let slab = self.slab(slab)?;
        check_range(offset, out.len(), slab.bytes)?;
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let read = retry_on_intr(|| pread(slab.file.fd(), &mut *rest, offset + done as u64))
                .map_err(system("reading a slab"))?;
            if read == 0 {
                return Err(system("reading a slab")(Errno::IO));
            }
            done += read;
        }
        Ok(())
    }

    fn share(&mut self, id: SlabId) -> Result<Share, DeviceError> {
        let slab = self.slab(id)?;
        if slab.is_written() {
            return Err(DeviceError::InUse(id));
        }
        sealed(slab.file.fd()).map(Share::Memory).map_err(system("sealing a slab"))
    }

    fn view(&mut self, id: SlabId) -> Result<SlabView, DeviceError> {
        let slab = self.slab_mut(id)?;
        if slab.is_written() {
            return Err(DeviceError::InUse(id));
        }
        let map = match &slab.map {
            Some(map) => map.clone(),
            None => {
                let mapped = slab.file.map(slab.bytes);
                let mapped = mapped.map_err(|source| DeviceError::System { what: "mapping a slab", source })?;
                slab.map.insert(Arc::new(mapped)).clone()
            }
        };
        Ok(SlabView::host(map, slab.bytes))
    }

    fn writer(&mut self, id: SlabId) -> Result<SlabWriter, DeviceError> {
        let slab = self.idle(id)?;
        if fcntl_get_seals(slab.file.fd()).map_err(system("asking for a slab's seals"))?.contains(SealFlags::WRITE) {
            return Err(DeviceError::Sealed(id));
        }
        let map = slab.file.map_mut(slab.bytes);
        let map = map.map_err(|source| DeviceError::System { what: "mapping a slab for writing", source })?;
        let token = Arc::new(());
        slab.writer = Arc::downgrade(&token);
        Ok(SlabWriter::host(map, token))
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn free(&mut self, id: SlabId) -> Result<u64, DeviceError> {
        if self.slab(id)?.in_use() {
            return Err(DeviceError::InUse(id));
        }
        let slab = self.slabs.remove(&id.0).ok_or(DeviceError::NoSlab(id))?;
        self.used_bytes = self.used_bytes.saturating_sub(slab.bytes);
        Ok(slab.bytes)
    }
}
