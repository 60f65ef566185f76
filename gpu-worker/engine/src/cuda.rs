//! `cuda:N` through the driver library, loaded when it is first asked for. One allocation of the driver per slab (the kind
//! that other processes can be given), copies on a stream of our own through two pinned staging buffers.
#![expect(unsafe_code, reason = "the driver's memory functions are unsafe; sizes and lifetimes are kept here")]

use std::{collections::BTreeMap, ffi::c_void, slice, sync::Arc};

use cudarc::driver::{
    CudaContext, CudaStream, DriverError,
    result::{self, free_host, free_sync, malloc_host, malloc_sync},
    sys::{CUdeviceptr, CUresult, is_culib_present},
};

use crate::{
    device::{ALIGN, Device, DeviceError, DeviceFacts, DeviceHealth, DeviceMemory, SlabId, check_range},
    nvml::Nvml,
};

/// Bytes of one staging buffer: copies of this size run at the bus's speed.
const STAGING: usize = 8 << 20;

/// True when the driver library can be loaded. Nothing else of this module may be called before it said so:
/// the bindings panic on a missing library.
pub(crate) fn driver_present() -> bool {
    // SAFETY: loads a shared library by its well-known names and looks nothing up in it.
    unsafe { is_culib_present() }
}

/// How many devices the driver shows.
pub(crate) fn count() -> Result<usize, DeviceError> {
    result::init().map_err(|error| failed("initialising the driver", error))?;
    let count = result::device::get_count().map_err(|error| failed("counting devices", error))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// A CUDA device.
#[derive(Debug)]
pub struct CudaDevice {
    facts: DeviceFacts,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    staging: [Staging; 2],
    turn: usize,
    slabs: BTreeMap<u64, Slab>,
    next: u64,
    used_bytes: u64,
    nvml: Option<Nvml>,
}

#[derive(Debug, Clone, Copy)]
struct Slab {
    pointer: CUdeviceptr,
    bytes: u64,
}

/// A pinned buffer and whether a copy out of it may still run.
#[derive(Debug)]
struct Staging {
    pointer: *mut c_void,
    busy: Option<cudarc::driver::CudaEvent>,
}

// SAFETY: the buffer belongs to the device value, which is used by one thread at a time; the pointer is not tied to a thread.
unsafe impl Send for Staging {}

/// Errors after which the context answers nothing but errors.
fn is_sticky(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_DEINITIALIZED
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

fn failed(what: &'static str, error: DriverError) -> DeviceError {
    let answer = format!("{:?}", error.0);
    if is_sticky(error.0) { DeviceError::Sticky { what, answer } } else { DeviceError::Driver { what, answer } }
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
        let devices = count()?;
        if ordinal >= devices {
            return Err(absent(format!("the driver shows {devices} devices")));
        }
        let context = CudaContext::new(ordinal).map_err(|error| failed("opening the device", error))?;
        let stream = context.new_stream().map_err(|error| failed("creating a stream", error))?;
        let (free, _) = result::mem_get_info().map_err(|error| failed("asking for free memory", error))?;
        let capacity_bytes = if memory_bytes == 0 { free as u64 } else { memory_bytes.min(free as u64) };
        let staging = [Staging::new()?, Staging::new()?];
        let facts = DeviceFacts {
            uuid: context.uuid().ok().map(|uuid| uuid_text(&uuid.bytes.map(|byte| byte as u8))),
            product: context.name().map_err(|error| failed("asking for the product name", error))?,
            name,
            kind: "cuda".to_owned(),
            capacity_bytes,
            align_bytes: ALIGN,
        };
        let nvml = facts.uuid.as_deref().and_then(Nvml::for_uuid);
        Ok(Self { facts, context, stream, staging, turn: 0, slabs: BTreeMap::new(), next: 0, used_bytes: 0, nvml })
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(|error| failed("binding the context", error))
    }

    fn out_of_memory(&self, needed_bytes: u64) -> DeviceError {
        let free = result::mem_get_info().map_or(0, |(free, _)| free as u64);
        DeviceError::OutOfMemory {
            needed_bytes,
            available_bytes: self.facts.capacity_bytes.saturating_sub(self.used_bytes).min(free),
            capacity_bytes: self.facts.capacity_bytes,
        }
    }

    fn slab(&self, id: SlabId) -> Result<Slab, DeviceError> {
        self.slabs.get(&id.0).copied().ok_or(DeviceError::NoSlab(id))
    }

    /// Sends at most one staging buffer's worth.
    fn send(&mut self, target: CUdeviceptr, data: &[u8]) -> Result<(), DeviceError> {
        let stream = self.stream.clone();
        self.turn = 1 - self.turn;
        let Some(staging) = self.staging.get_mut(self.turn) else { return Ok(()) };
        staging.wait()?;
        // SAFETY: the buffer has STAGING bytes, `data` is not longer (the caller cuts it), nobody reads the buffer now.
        let buffer = unsafe { slice::from_raw_parts_mut(staging.pointer.cast::<u8>(), data.len()) };
        buffer.copy_from_slice(data);
        // SAFETY: `target` and the length lie in a live slab; the buffer is pinned and not written until the event has passed.
        unsafe { result::memcpy_htod_async(target, buffer, stream.cu_stream()) }
            .map_err(|error| failed("copying to the device", error))?;
        staging.busy = Some(stream.record_event(None).map_err(|error| failed("recording an event", error))?);
        Ok(())
    }
}

impl Staging {
    fn new() -> Result<Self, DeviceError> {
        // SAFETY: plain allocation; freed in `drop`.
        let pointer = unsafe { malloc_host(STAGING, 0) }.map_err(|error| failed("allocating pinned memory", error))?;
        Ok(Self { pointer, busy: None })
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        match self.busy.take() {
            Some(event) => event.synchronize().map_err(|error| failed("waiting for a copy", error)),
            None => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // a copy that still reads the buffer must end first; its error was or will be reported elsewhere
        let _ = self.wait();
        // SAFETY: allocated by `malloc_host` and freed only here.
        let _ = unsafe { free_host(self.pointer) };
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        for slab in std::mem::take(&mut self.slabs).into_values() {
            // SAFETY: allocated by `malloc_sync`, removed from the table, freed once. Its error has no reader any more.
            let _ = unsafe { free_sync(slab.pointer) };
        }
    }
}

impl Device for CudaDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.bind()?;
        // without NVML the driver's figure covers all processes; then our own ledger is all that is known of our share
        let system_bytes = self.nvml.as_ref().and_then(Nvml::own_bytes).unwrap_or(self.used_bytes);
        Ok(DeviceMemory { capacity_bytes: self.facts.capacity_bytes, used_bytes: self.used_bytes, system_bytes })
    }

    fn health(&self) -> DeviceHealth {
        self.nvml.as_ref().map(Nvml::health).unwrap_or_default()
    }

    fn allocate_while(&mut self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError> {
        // the driver allocates in one quick call
        if !go_on() {
            return Err(DeviceError::Interrupted);
        }
        self.bind()?;
        let rounded = bytes.max(1).checked_next_multiple_of(ALIGN);
        let fits = |bytes: &u64| *bytes <= self.facts.capacity_bytes.saturating_sub(self.used_bytes);
        let Some(rounded) = rounded.filter(fits) else { return Err(self.out_of_memory(bytes)) };
        let Ok(length) = usize::try_from(rounded) else { return Err(self.out_of_memory(bytes)) };
        // SAFETY: plain allocation in the bound context; freed in `free` or `drop`.
        let pointer = match unsafe { malloc_sync(length) } {
            Ok(pointer) => pointer,
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Err(self.out_of_memory(rounded)),
            Err(error) => return Err(failed("allocating a slab", error)),
        };
        let id = self.next;
        self.next += 1;
        self.used_bytes += rounded;
        self.slabs.insert(id, Slab { pointer, bytes: rounded });
        Ok(SlabId(id))
    }

    fn slab_bytes(&self, slab: SlabId) -> Result<u64, DeviceError> {
        Ok(self.slab(slab)?.bytes)
    }

    fn write(&mut self, slab: SlabId, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let slab = self.slab(slab)?;
        check_range(offset, data.len(), slab.bytes)?;
        self.bind()?;
        let mut target = slab.pointer + offset;
        for piece in data.chunks(STAGING) {
            self.send(target, piece)?;
            target += piece.len() as u64;
        }
        Ok(())
    }

    fn read(&mut self, slab: SlabId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let slab = self.slab(slab)?;
        check_range(offset, out.len(), slab.bytes)?;
        self.synchronize()?;
        // SAFETY: the range lies in a live slab and the copy has ended when the call returns.
        unsafe { result::memcpy_dtoh_sync(out, slab.pointer + offset) }
            .map_err(|error| failed("copying from the device", error))
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.bind()?;
        self.stream.synchronize().map_err(|error| failed("waiting for copies", error))
    }

    fn free(&mut self, id: SlabId) -> Result<u64, DeviceError> {
        let slab = self.slab(id)?;
        self.synchronize()?;
        // SAFETY: allocated by `malloc_sync`; no copy runs any more; it leaves the table below, so it is freed once.
        unsafe { free_sync(slab.pointer) }.map_err(|error| failed("freeing a slab", error))?;
        self.slabs.remove(&id.0);
        self.used_bytes = self.used_bytes.saturating_sub(slab.bytes);
        Ok(slab.bytes)
    }
}

/// `GPU-xxxxxxxx-xxxx-…`, as the vendor's tools write it.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_the_vendor_writes_them() {
        let bytes: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(uuid_text(&bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }

    #[test]
    fn a_machine_without_the_driver_says_so_and_does_not_panic() {
        if driver_present() {
            println!("skipped: a CUDA driver is here");
            return;
        }
        let error = CudaDevice::open(0, 0).unwrap_err();
        assert!(error.to_string().contains("`cuda:0` cannot be opened"), "{error}");
    }
}
