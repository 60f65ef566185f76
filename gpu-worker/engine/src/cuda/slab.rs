//! One allocation of the driver: freed by the device on request, or by whoever looks at it last.
#![expect(unsafe_code, reason = "the driver's memory functions are unsafe; an allocation is freed once, here")]

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, DriverError,
    result::{free_sync, malloc_sync, memcpy_dtod_sync, memcpy_dtoh_sync, memcpy_htod_sync},
    sys::{CUdeviceptr, CUresult},
};

use super::errors::failed;
use crate::{DeviceError, weights};

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

    /// Binds its context to this thread.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        self.context.bind_to_thread()
    }

    /// Waits for everything that was asked of the context, which is bound to this thread.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        self.context.synchronize()
    }

    /// Another allocation of so many bytes in the same context, which is bound to this thread.
    ///
    /// # Errors
    /// `OutOfMemory` with the device's own numbers, or what the driver answers.
    pub(super) fn beside(&self, length: usize) -> Result<Self, DeviceError> {
        Self::allocate(&self.context, length).map_err(|error| match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => {
                let (free, total) = self.context.mem_get_info().unwrap_or_default();
                DeviceError::OutOfMemory {
                    needed_bytes: length as u64,
                    available_bytes: free as u64,
                    capacity_bytes: total as u64,
                }
            }
            error => failed("allocating memory for factors")(error),
        })
    }

    /// Whether so many bytes lie in it from `offset` on.
    pub(super) fn holds(&self, offset: u64, bytes: usize) -> bool {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(bytes));
        end.is_some_and(|end| end <= self.length)
    }

    /// All its bytes.
    ///
    /// # Errors
    /// What the driver answers.
    pub(crate) fn to_host(&self) -> Result<Vec<u8>, DeviceError> {
        self.bind().map_err(failed("binding the context"))?;
        let mut bytes = vec![0; self.length];
        self.read(0, &mut bytes).map_err(failed("copying from the device"))?;
        Ok(bytes)
    }

    /// Reads from `offset` on, in the bound context; nothing beyond its end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), DriverError> {
        if !self.holds(offset, out.len()) {
            return Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
        }
        // SAFETY: the range lies in this allocation, and the copy has ended when the call returns.
        unsafe { memcpy_dtoh_sync(out, self.pointer + offset) }
    }

    /// Writes from `offset` on, in the bound context; nothing beyond its end. For whoever alone uses it.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), DriverError> {
        if !self.holds(offset, data.len()) {
            return Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
        }
        // SAFETY: the range lies in this allocation, which the caller alone uses.
        unsafe { memcpy_htod_sync(self.pointer + offset, data) }
    }

    /// Copies bytes of another allocation of the same context; nothing beyond either end. For whoever alone uses this one.
    pub(super) fn copy_from(&self, offset: u64, from: &Self, begin: u64, bytes: usize) -> Result<(), DriverError> {
        if !self.holds(offset, bytes) || !from.holds(begin, bytes) {
            return Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
        }
        // SAFETY: both ranges lie in their allocations, the caller alone uses this one, and nobody writes to the other one
        // while it is held by more than its device.
        unsafe { memcpy_dtod_sync(self.pointer + offset, from.pointer + begin, bytes) }
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
