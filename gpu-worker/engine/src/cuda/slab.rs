//! One allocation of the driver: freed by the device on request, or by whoever looks at it last.
#![expect(unsafe_code, reason = "the driver's memory functions are unsafe; an allocation is freed once, here")]

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, DriverError,
    result::{free_sync, malloc_sync},
    sys::CUdeviceptr,
};

use crate::weights;

/// An allocation. It keeps the context that it was made in.
#[derive(Debug)]
pub(crate) struct CudaMemory {
    context: Arc<CudaContext>,
    pointer: CUdeviceptr,
    length: usize,
    freed: bool,
}

impl CudaMemory {
    /// Allocates in the context, which is bound to this thread.
    pub(super) fn allocate(context: &Arc<CudaContext>, length: usize) -> Result<Self, DriverError> {
        // SAFETY: plain allocation in the bound context; freed in `release` or `drop`.
        let pointer = unsafe { malloc_sync(length) }?;
        Ok(Self { context: context.clone(), pointer, length, freed: false })
    }

    /// The device's number.
    pub(crate) fn ordinal(&self) -> usize {
        self.context.ordinal()
    }

    /// Address on the device.
    pub(crate) fn pointer(&self) -> CUdeviceptr {
        self.pointer
    }

    /// `bytes` bytes from `offset` on as the memory of a weight; none beyond its end.
    pub(crate) fn weight(memory: &Arc<Self>, offset: u64, bytes: usize) -> Option<weights::Memory> {
        let end = usize::try_from(offset).ok()?.checked_add(bytes)?;
        if end > memory.length {
            return None;
        }
        let device = i32::try_from(memory.ordinal()).ok()?;
        // SAFETY: the range lies in this allocation, which is neither written nor freed while somebody else than its device
        // holds it, as the weight does; the address is one of this device.
        Some(unsafe { weights::Memory::cuda(memory.clone(), memory.pointer + offset, bytes, device) })
    }

    /// Frees it, in the context that is bound to this thread. No copy of ours may be under way.
    pub(super) fn release(&mut self) -> Result<(), DriverError> {
        if !self.freed {
            // SAFETY: allocated by `malloc_sync` and not freed yet; `freed` says so from here on, so it is freed once.
            unsafe { free_sync(self.pointer) }?;
            self.freed = true;
        }
        Ok(())
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.freed || self.context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: allocated by `malloc_sync` in the context that is bound now, and not released before. The driver waits
        // for what still runs on it; an error has no reader any more.
        let _ = unsafe { free_sync(self.pointer) };
    }
}
