//! `cpu:0`: a bounded arena of host memory. Each slab is a memory file of its own, so that freeing it gives every byte
//! back at once, and so that the system's own figure for it can be compared with the ledger.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Weak},
};

use rustix::io::Errno;

use crate::{
    SlabView, SlabWriter,
    device::{ALIGN, Device, DeviceError, DeviceFacts, DeviceMemory, Share, SlabId, check_range},
    lora::Sink,
    mapped::Mapped,
    memory_file::{MemoryFile, PAGE},
    writer::HostWriter,
};

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
    file: Arc<MemoryFile>,
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

    /// Room for so many bytes, in whole pages, if it is there.
    fn room(&self, bytes: u64) -> Result<u64, DeviceError> {
        let Some(rounded) = bytes.max(1).checked_next_multiple_of(PAGE) else { return Err(self.out_of_memory(bytes)) };
        if rounded > self.available() { Err(self.out_of_memory(rounded)) } else { Ok(rounded) }
    }

    fn book(&mut self, file: MemoryFile, bytes: u64) -> SlabId {
        let id = self.next;
        self.next += 1;
        self.used_bytes += bytes;
        self.slabs.insert(id, Slab { file: Arc::new(file), bytes, map: None, writer: Weak::new() });
        SlabId(id)
    }

    /// Takes a slab that nobody uses out of the books.
    fn taken(&mut self, id: SlabId) -> Result<Slab, DeviceError> {
        if self.slab(id)?.in_use() {
            return Err(DeviceError::InUse(id));
        }
        let slab = self.slabs.remove(&id.0).ok_or(DeviceError::NoSlab(id))?;
        self.used_bytes = self.used_bytes.saturating_sub(slab.bytes);
        Ok(slab)
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

impl Device for CpuDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let mut system_bytes = 0;
        for slab in self.slabs.values() {
            let there = slab.file.system_bytes().map_err(system("asking for a slab's size"))?;
            // the pages of one that is being written come as they are written
            system_bytes += if slab.is_written() { slab.bytes.max(there) } else { there };
        }
        Ok(DeviceMemory { capacity_bytes: self.facts.capacity_bytes, used_bytes: self.used_bytes, system_bytes })
    }

    fn allocate_while(&mut self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError> {
        let id = self.reserve(bytes)?;
        let promised = self.slab(id).map(|slab| slab.file.promise_while(slab.bytes, go_on))?;
        let error = match promised {
            Ok(true) => return Ok(id),
            Ok(false) => DeviceError::Interrupted,
            // the system has less than the budget promised
            Err(Errno::NOMEM | Errno::NOSPC) => self.out_of_memory(bytes),
            Err(error) => system("allocating a slab")(error),
        };
        self.free(id)?;
        Err(error)
    }

    fn reserve(&mut self, bytes: u64) -> Result<SlabId, DeviceError> {
        let rounded = self.room(bytes)?;
        let file = MemoryFile::new(rounded).map_err(system("making a slab"))?;
        Ok(self.book(file, rounded))
    }

    fn replace(&mut self, slab: SlabId, bytes: u64) -> Result<SlabId, DeviceError> {
        // of what was opened to other processes no byte changes any more, and a mapping keeps its pages
        let Slab { file, map, .. } = self.taken(slab)?;
        drop(map);
        let rounded = self.room(bytes)?;
        let file = match Arc::into_inner(file) {
            Some(file) if !file.is_sealed().map_err(system("asking for a slab's seals"))? => {
                file.resized(rounded).map_err(system("making a slab of another"))?
            }
            _ => return self.reserve(bytes),
        };
        Ok(self.book(file, rounded))
    }

    fn slab_bytes(&self, slab: SlabId) -> Result<u64, DeviceError> {
        Ok(self.slab(slab)?.bytes)
    }

    fn write(&mut self, slab: SlabId, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        check_range(offset, data.len(), self.slab(slab)?.bytes)?;
        let slab = self.idle(slab)?;
        slab.file.write(offset, data).map_err(|source| DeviceError::System { what: "writing to a slab", source })
    }

    fn read(&mut self, slab: SlabId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let slab = self.slab(slab)?;
        check_range(offset, out.len(), slab.bytes)?;
        slab.file.read(offset, out).map_err(|source| DeviceError::System { what: "reading a slab", source })
    }

    fn share(&mut self, id: SlabId) -> Result<Share, DeviceError> {
        let slab = self.slab(id)?;
        if slab.is_written() {
            return Err(DeviceError::InUse(id));
        }
        slab.file.sealed().map(Share::Memory).map_err(system("sealing a slab"))
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
        let capacity_bytes = self.facts.capacity_bytes;
        let slab = self.idle(id)?;
        if slab.file.is_sealed().map_err(system("asking for a slab's seals"))? {
            return Err(DeviceError::Sealed(id));
        }
        let token = Arc::new(());
        slab.writer = Arc::downgrade(&token);
        let (file, bytes) = (slab.file.clone(), slab.bytes);
        Ok(SlabWriter::host(HostWriter { file, bytes, capacity_bytes, _token: token }))
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn free(&mut self, id: SlabId) -> Result<u64, DeviceError> {
        self.taken(id).map(|slab| slab.bytes)
    }
}
