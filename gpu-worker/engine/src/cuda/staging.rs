//! Copies to a device: a ring of pinned buffers, each filled while the ones before it are under way.
#![expect(unsafe_code, reason = "pinned memory of the driver; sizes and lifetimes are kept here")]

use std::{ffi::c_void, slice, sync::Arc};

use cudarc::driver::{
    CudaEvent, CudaStream,
    result::{self, free_host, malloc_host},
    sys::{CUdeviceptr, CUevent_flags},
};

use super::{errors::failed, fill::Fillers};
use crate::DeviceError;

/// Bytes of one buffer: copies of this size run at the bus's speed.
pub(super) const BUFFER: usize = 8 << 20;
/// One is filled, one is under way, and one waits for either to be late.
const BUFFERS: usize = 4;
/// Waiting sleeps instead of turning: a copy takes most of a millisecond, and the processor has other work.
const WAITING: CUevent_flags = CUevent_flags::CU_EVENT_BLOCKING_SYNC;

/// The ring. It must be dropped before the context.
#[derive(Debug)]
pub(super) struct Ring {
    buffers: Vec<Buffer>,
    turn: usize,
    fillers: Fillers,
}

/// A pinned buffer and whether a copy out of it may still run.
#[derive(Debug)]
struct Buffer {
    pointer: *mut c_void,
    busy: Option<CudaEvent>,
}

// SAFETY: the buffer belongs to the device value, which is used by one thread at a time; pinned memory is not tied to a thread.
unsafe impl Send for Buffer {}

impl Ring {
    /// Allocates the buffers in the context that is bound to this thread.
    pub(super) fn new() -> Result<Self, DeviceError> {
        let fillers = Fillers::start()
            .map_err(|source| DeviceError::System { what: "starting the threads that fill staging buffers", source })?;
        let buffers = (0..BUFFERS).map(|_| Buffer::new()).collect::<Result<_, _>>()?;
        Ok(Self { buffers, turn: 0, fillers })
    }

    /// Sends `data` to `target`; on return `data` may be reused, the bytes may still be under way on the stream.
    ///
    /// # Safety
    /// `[target, target + data.len())` lies in a live allocation of the bound context, which is not freed before the
    /// stream has been waited for.
    pub(super) unsafe fn send(
        &mut self,
        stream: &Arc<CudaStream>,
        mut target: CUdeviceptr,
        data: &[u8],
    ) -> Result<(), DeviceError> {
        for piece in data.chunks(BUFFER) {
            let count = self.buffers.len();
            let Some(buffer) = self.buffers.get_mut(self.turn) else { return Ok(()) };
            self.turn = (self.turn + 1) % count;
            buffer.wait()?;
            // SAFETY: the buffer has BUFFER bytes, a piece is not longer, and no copy reads the buffer now.
            let pinned = unsafe { slice::from_raw_parts_mut(buffer.pointer.cast::<u8>(), piece.len()) };
            self.fillers.copy(piece, pinned);
            // SAFETY: the target is the caller's promise; the pinned bytes are not written before the event has passed.
            unsafe { result::memcpy_htod_async(target, pinned, stream.cu_stream()) }
                .map_err(failed("copying to the device"))?;
            buffer.busy = Some(stream.record_event(Some(WAITING)).map_err(failed("recording an event"))?);
            target += piece.len() as u64;
        }
        Ok(())
    }
}

impl Buffer {
    fn new() -> Result<Self, DeviceError> {
        // SAFETY: plain allocation; freed in `drop`.
        let pointer = unsafe { malloc_host(BUFFER, 0) }.map_err(failed("allocating pinned memory"))?;
        Ok(Self { pointer, busy: None })
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        match self.busy.take() {
            Some(event) => event.synchronize().map_err(failed("waiting for a copy")),
            None => Ok(()),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // a copy that still reads the buffer must end first; its error was or will be reported elsewhere
        let _ = self.wait();
        // SAFETY: allocated by `malloc_host` and freed only here.
        let _ = unsafe { free_host(self.pointer) };
    }
}

/// Waits until everything sent on the stream has arrived.
pub(super) fn wait_for(stream: &CudaStream) -> Result<(), DeviceError> {
    let event = stream.record_event(Some(WAITING)).map_err(failed("recording an event"))?;
    event.synchronize().map_err(failed("waiting for copies"))
}
