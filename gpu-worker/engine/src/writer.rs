//! Writing to a slab from another thread while its device goes on: variants are computed straight into the slab.

use std::{fmt, sync::Arc};

use crate::{
    cuda::CudaWriter,
    lora::{MergeControl, VariantError, VariantTensor, on_host},
    mapped::MappedMut,
};

/// A slab that is being written. While it lives, its device neither writes, looks at, shares nor frees the slab.
pub struct SlabWriter(Memory);

enum Memory {
    // the mapping goes before the token: who sees that the token is gone may map anew
    Host(MappedMut, #[expect(dead_code, reason = "held for its device, which counts it")] Arc<()>),
    Cuda(CudaWriter),
}

impl SlabWriter {
    pub(crate) fn host(memory: MappedMut, token: Arc<()>) -> Self {
        Self(Memory::Host(memory, token))
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
            Memory::Host(memory, _) => on_host(memory.as_mut_slice(), tensors, control),
            Memory::Cuda(writer) => writer.merge(tensors, control),
        }
    }
}

impl fmt::Debug for SlabWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabWriter").finish_non_exhaustive()
    }
}
