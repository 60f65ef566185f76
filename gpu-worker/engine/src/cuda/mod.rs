//! `cuda:N` through the driver library, loaded when it is first asked for. One allocation of the driver per slab (the kind
//! that other processes can be given), copies on a stream of our own through a ring of pinned staging buffers.
//!
//! The agent never makes a context; a runner makes one, when it opens its device, and keeps it for its life.
#![expect(unsafe_code, reason = "the driver's memory functions are unsafe; sizes and lifetimes are kept here")]

mod batch;
mod driver;
mod errors;
mod fill;
mod kernel;
mod slab;
mod staging;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys::CUresult};

pub(crate) use driver::{count, driver_present};
use errors::failed;
pub(crate) use slab::CudaMemory;
use staging::{Ring, wait_for};
pub(crate) use writer::CudaWriter;

use crate::{
    SlabView, SlabWriter,
    device::{ALIGN, Device, DeviceError, DeviceFacts, DeviceMemory, Share, SlabId, check_range},
};

/// A CUDA device.
#[derive(Debug)]
pub struct CudaDevice {
    // dropped in this order: pinned memory goes before the stream; slabs that are looked at keep the context
    ring: Ring,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    facts: DeviceFacts,
    slabs: BTreeMap<u64, Slab>,
    next: u64,
    used_bytes: u64,
    /// Free bytes when nothing of ours was allocated: what is missing from it later went to our slabs, or to others.
    free_at_first: u64,
}

#[derive(Debug)]
struct Slab {
    memory: Arc<CudaMemory>,
    bytes: u64,
    /// Lives while somebody writes to it from another thread.
    writer: Weak<()>,
}

impl Slab {
    fn is_written(&self) -> bool {
        self.writer.strong_count() > 0
    }
}

impl CudaDevice {
    /// Opens device `ordinal`, bounded to `memory_bytes` (0: what is free now).
    ///
    /// # Errors
    /// [`DeviceError::NotThere`] without driver or device.
    pub fn open(ordinal: usize, memory_bytes: u64) -> Result<Self, DeviceError> {
        let name = format!("cuda:{ordinal}");
        let absent = |reason: String| DeviceError::NotThere { name: name.clone(), reason };
        if !driver_present() {
            return Err(absent("the CUDA driver library is not on this machine".to_owned()));
        }
        // a driver older than the bindings lacks symbols, and the bindings panic at the first use of one
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let devices = count().map_err(&absent)?;
            if ordinal >= devices {
                return Err(absent(format!("the driver shows {devices} devices")));
            }
            Self::open_present(ordinal, name.clone(), memory_bytes)
        }));
        opened.unwrap_or_else(|_| Err(absent("the CUDA driver library is too old for this build".to_owned())))
    }

    fn open_present(ordinal: usize, name: String, memory_bytes: u64) -> Result<Self, DeviceError> {
        let context = CudaContext::new(ordinal).map_err(failed("opening the device"))?;
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let ring = Ring::new()?;
        let (free, _) = context.mem_get_info().map_err(failed("asking for free memory"))?;
        let free_at_first = free as u64;
        let capacity_bytes = if memory_bytes == 0 { free_at_first } else { memory_bytes.min(free_at_first) };
        let facts = DeviceFacts {
            uuid: Some(driver::uuid(context.cu_device()).map_err(failed("asking for the device's id"))?),
            product: context.name().map_err(failed("asking for the product name"))?,
            name,
            kind: "cuda".to_owned(),
            capacity_bytes,
            align_bytes: ALIGN,
        };
        Ok(Self { ring, stream, context, facts, slabs: BTreeMap::new(), next: 0, used_bytes: 0, free_at_first })
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(failed("binding the context"))
    }

    fn out_of_memory(&self, needed_bytes: u64) -> DeviceError {
        let free = self.context.mem_get_info().map_or(0, |(free, _)| free as u64);
        DeviceError::OutOfMemory {
            needed_bytes,
            available_bytes: self.facts.capacity_bytes.saturating_sub(self.used_bytes).min(free),
            capacity_bytes: self.facts.capacity_bytes,
        }
    }

    fn slab(&self, id: SlabId) -> Result<&Slab, DeviceError> {
        self.slabs.get(&id.0).ok_or(DeviceError::NoSlab(id))
    }

    /// The length of a slab for so many bytes, when the ledger has room for it.
    fn room_for(&self, bytes: u64) -> Option<(u64, usize)> {
        let rounded = bytes.max(1).checked_next_multiple_of(ALIGN)?;
        let fits = rounded <= self.facts.capacity_bytes.saturating_sub(self.used_bytes);
        fits.then_some((rounded, usize::try_from(rounded).ok()?))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        // a copy into a slab ends before the slab goes; errors have no reader any more
        let _ = wait_for(&self.stream);
    }
}

impl Device for CudaDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// The driver's figure is of the whole device: what others took or gave back since the start is in it, too.
    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let (free, _) = self.context.mem_get_info().map_err(failed("asking for free memory"))?;
        Ok(DeviceMemory {
            capacity_bytes: self.facts.capacity_bytes,
            used_bytes: self.used_bytes,
            system_bytes: self.free_at_first.saturating_sub(free as u64),
        })
    }

    fn allocate_while(&mut self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError> {
        // the driver allocates in one quick call
        if !go_on() {
            return Err(DeviceError::Interrupted);
        }
        self.bind()?;
        let Some((rounded, length)) = self.room_for(bytes) else { return Err(self.out_of_memory(bytes)) };
        let memory = match CudaMemory::allocate(&self.context, length) {
            Ok(memory) => memory,
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Err(self.out_of_memory(rounded)),
            Err(error) => return Err(failed("allocating a slab")(error)),
        };
        let id = self.next;
        self.next += 1;
        self.used_bytes += rounded;
        self.slabs.insert(id, Slab { memory: Arc::new(memory), bytes: rounded, writer: Weak::new() });
        Ok(SlabId(id))
    }

    fn slab_bytes(&self, slab: SlabId) -> Result<u64, DeviceError> {
        Ok(self.slab(slab)?.bytes)
    }

    fn write(&mut self, slab: SlabId, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let live = self.slab(slab)?;
        check_range(offset, data.len(), live.bytes)?;
        if Arc::strong_count(&live.memory) > 1 {
            return Err(DeviceError::InUse(slab));
        }
        let target = live.memory.pointer() + offset;
        self.bind()?;
        // SAFETY: the range lies in a live slab, and slabs are freed only after the stream has been waited for.
        unsafe { self.ring.send(&self.stream, target, data) }
    }

    fn read(&mut self, slab: SlabId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let slab = self.slab(slab)?;
        check_range(offset, out.len(), slab.bytes)?;
        let source = slab.memory.pointer() + offset;
        self.synchronize()?;
        // SAFETY: the range lies in a live slab and the copy has ended when the call returns.
        unsafe { result::memcpy_dtoh_sync(out, source) }.map_err(failed("copying from the device"))
    }

    fn share(&mut self, slab: SlabId) -> Result<Share, DeviceError> {
        let live = self.slab(slab)?;
        if live.is_written() {
            return Err(DeviceError::InUse(slab));
        }
        let pointer = live.memory.pointer();
        self.synchronize()?;
        driver::share(pointer).map(Share::Cuda).map_err(failed("sharing a slab"))
    }

    fn view(&mut self, slab: SlabId) -> Result<SlabView, DeviceError> {
        let live = self.slab(slab)?;
        if live.is_written() {
            return Err(DeviceError::InUse(slab));
        }
        let (memory, bytes) = (live.memory.clone(), live.bytes);
        self.synchronize()?;
        Ok(SlabView::cuda(memory, bytes))
    }

    fn writer(&mut self, slab: SlabId) -> Result<SlabWriter, DeviceError> {
        self.synchronize()?;
        let live = self.slabs.get_mut(&slab.0).ok_or(DeviceError::NoSlab(slab))?;
        if Arc::strong_count(&live.memory) > 1 {
            return Err(DeviceError::InUse(slab));
        }
        let (writer, known) = CudaWriter::new(live.memory.clone());
        live.writer = known;
        Ok(SlabWriter::cuda(writer))
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.bind()?;
        wait_for(&self.stream)
    }

    fn free(&mut self, id: SlabId) -> Result<u64, DeviceError> {
        if Arc::strong_count(&self.slab(id)?.memory) > 1 {
            return Err(DeviceError::InUse(id));
        }
        match self.synchronize() {
            // a copy that failed has ended, too; whoever wrote was told or will be told
            Ok(()) | Err(DeviceError::Driver { .. }) => {}
            Err(error) => return Err(error),
        }
        let Slab { memory, bytes, writer } = self.slabs.remove(&id.0).ok_or(DeviceError::NoSlab(id))?;
        let released = match Arc::try_unwrap(memory) {
            // weak references to what a run held may outlive it, and hold nothing up
            Ok(mut memory) => match memory.release() {
                Ok(()) => Ok(()),
                Err(error) => Err((Arc::new(memory), failed("freeing a slab")(error))),
            },
            Err(memory) => Err((memory, DeviceError::InUse(id))),
        };
        if let Err((memory, error)) = released {
            self.slabs.insert(id.0, Slab { memory, bytes, writer });
            return Err(error);
        }
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
        Ok(bytes)
    }
}
