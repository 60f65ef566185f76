//! Writing to a slab from another thread while its device goes on: variants are computed straight into the slab.

use std::{fmt, io, sync::Arc};

use crate::{
    DeviceError,
    cuda::CudaWriter,
    lora::{MergeControl, Trouble, VariantError, VariantTensor, on_host},
    memory_file::MemoryFile,
};

/// A slab that is being written. While it lives, its device neither writes, looks at, shares nor frees the slab.
pub struct SlabWriter(Memory);

enum Memory {
    Host(HostWriter),
    Cuda(CudaWriter),
}

/// A slab in host memory.
pub(crate) struct HostWriter {
    pub(crate) file: Arc<MemoryFile>,
    pub(crate) bytes: u64,
    /// Of the device.
    pub(crate) capacity_bytes: u64,
    /// Held for the device, which counts it.
    pub(crate) _token: Arc<()>,
}

impl SlabWriter {
    pub(crate) fn host(writer: HostWriter) -> Self {
        Self(Memory::Host(writer))
    }

    pub(crate) fn cuda(writer: CudaWriter) -> Self {
        Self(Memory::Cuda(writer))
    }

    /// Makes the tensors of a variant. The same tensors give the same bytes, whatever the device and the number of threads.
    ///
    /// # Errors
    /// [`VariantError`] for the first tensor that cannot be made; what stands in the slab then is not to be used.
    pub fn merge(&mut self, tensors: Vec<VariantTensor<'_>>, control: &MergeControl<'_>) -> Result<(), VariantError> {
        match &mut self.0 {
            Memory::Host(writer) => writer.merge(tensors, control),
            Memory::Cuda(writer) => writer.merge(tensors, control),
        }
    }
}

impl HostWriter {
    fn merge(&self, tensors: Vec<VariantTensor<'_>>, control: &MergeControl<'_>) -> Result<(), VariantError> {
        match on_host(self.file.as_ref(), self.bytes, tensors, control)? {
            // what no tensor covers is promised now
            Ok(()) => self.file.promise(self.bytes).map_err(|error| self.refused(error)),
            Err(Trouble::Tensor(failed)) => Err(failed.into()),
            Err(Trouble::Memory(error)) => Err(self.refused(error)),
        }
    }

    fn refused(&self, source: io::Error) -> VariantError {
        let Self { bytes, capacity_bytes, .. } = *self;
        VariantError::Device(match source.kind() {
            // the system has less than the budget promised
            io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull => {
                DeviceError::OutOfMemory { needed_bytes: bytes, available_bytes: 0, capacity_bytes }
            }
            _ => DeviceError::System { what: "writing to a slab", source },
        })
    }
}

impl fmt::Debug for SlabWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabWriter").finish_non_exhaustive()
    }
}
