//! Variants in the memory of a CUDA device, from another thread than the device's own.
//!
//! Tensors pass through the host in groups: the base's bytes come down, are changed by the loop that the processor has, and go
//! up again. What another slab holds already is copied within the device.

use std::sync::{Arc, Weak};

use super::{errors::failed, slab::CudaMemory};
use crate::lora::{Made, MergeControl, Place, VariantError, VariantTensor, on_host};

/// Bytes of a group of tensors on the host, about.
const GROUP: u64 = 128 << 20;

/// An allocation that nobody else uses.
pub(crate) struct CudaWriter {
    memory: Arc<CudaMemory>,
    // the memory goes before the token: who sees that the token is gone may use the memory
    _token: Arc<()>,
}

impl CudaWriter {
    /// A writer, and what its device knows it by.
    pub(super) fn new(memory: Arc<CudaMemory>) -> (Self, Weak<()>) {
        let token = Arc::new(());
        let known = Arc::downgrade(&token);
        (Self { memory, _token: token }, known)
    }

    /// As [`crate::SlabWriter::merge`].
    pub(crate) fn merge(
        &mut self,
        tensors: Vec<VariantTensor<'_>>,
        control: &MergeControl<'_>,
    ) -> Result<(), VariantError> {
        self.memory.bind().map_err(failed("binding the context"))?;
        let (mut group, mut bytes) = (Vec::new(), 0);
        for tensor in tensors {
            if let Made::Taken(place) = &tensor.made {
                self.take(&tensor, *place)?;
                (control.done)(tensor.to.end - tensor.to.start);
                continue;
            }
            bytes += tensor.to.end.saturating_sub(tensor.to.start);
            group.push(tensor);
            if bytes >= GROUP {
                self.through_host(std::mem::take(&mut group), control)?;
                bytes = 0;
            }
        }
        self.through_host(group, control)
    }

    /// Copies what another slab holds, within the device.
    fn take(&self, tensor: &VariantTensor<'_>, place: Place<'_>) -> Result<(), VariantError> {
        let Place::Slab(view, begin) = place else { return Ok(()) };
        let length = tensor.length().ok_or_else(|| tensor.outside())?;
        let from = view.as_cuda().ok_or_else(|| tensor.outside())?;
        Ok(self.memory.copy_from(tensor.to.start, from, begin, length).map_err(failed("copying within the device"))?)
    }

    fn through_host(&self, tensors: Vec<VariantTensor<'_>>, control: &MergeControl<'_>) -> Result<(), VariantError> {
        let mut buffer = Vec::new();
        let mut places = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let length = tensor.length().ok_or_else(|| tensor.outside())?;
            let begin = buffer.len();
            buffer.resize(begin + length, 0);
            let (from, at) = match &tensor.made {
                Made::Changed(Place::Slab(view, at), _) => (view.as_cuda().ok_or_else(|| tensor.outside())?, *at),
                Made::Changed(Place::Here, _) | Made::Taken(_) => (&self.memory, tensor.to.start),
            };
            from.read(at, buffer.get_mut(begin..).unwrap_or_default()).map_err(failed("copying from the device"))?;
            places.push((tensor.name.to_owned(), tensor.to.start, begin..begin + length));
        }
        let here = tensors.into_iter().zip(&places).map(|(tensor, (_, _, range))| tensor.here(range.clone()));
        on_host(&mut buffer, here.collect(), control)?;
        for (tensor, at, range) in places {
            let outside = || VariantError::outside(&tensor);
            let bytes = buffer.get(range).ok_or_else(outside)?;
            self.memory.write(at, bytes).map_err(failed("copying to the device"))?;
        }
        Ok(())
    }
}
