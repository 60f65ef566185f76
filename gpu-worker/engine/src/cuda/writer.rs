//! Variants in the memory of a CUDA device, from another thread than the device's own.
//!
//! The base's bytes stay on the device. The LoRA's factors are read and scaled on the host, go up in groups, and the program of
//! `merge.cu` sums them as the processor's loop does: equal stacks have equal bytes on every device. What is no product of thin
//! matrices goes up whole. Only for DoRA, whose magnitudes depend on the weight, a tensor of the base comes down.

use std::{
    borrow::Cow,
    sync::{Arc, Weak},
};

use super::{
    batch::{Batch, Entry},
    errors::failed,
    kernel::Kernel,
    slab::CudaMemory,
};
use crate::{
    ElementType,
    lora::{
        Added, Change, Failed, Made, MergeControl, MergeError, Place, Stored, VariantError, VariantTensor, added,
        matrix, modules,
    },
    tensor::elements,
};

/// Bytes of factors that go up at once, about.
const GROUP: usize = 64 << 20;

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
        let made = self.make(tensors, control);
        // copies within the device go on when their call returns: nobody lets go of what they read or write before they end
        let waited = self.memory.wait().map_err(failed("waiting for a merge"));
        made.and_then(|()| Ok(waited?))
    }

    fn make(&self, tensors: Vec<VariantTensor<'_>>, control: &MergeControl<'_>) -> Result<(), VariantError> {
        let kernel = Kernel::load().map_err(failed("loading the program that merges"))?;
        let mut batch = Batch::default();
        for tensor in tensors {
            if control.cancel.is_cancelled() {
                return Err(failure(&tensor, MergeError::Cancelled));
            }
            match &tensor.made {
                Made::Taken(place) => {
                    self.take(&tensor, *place)?;
                    (control.done)(tensor.length().unwrap_or(0) as u64);
                }
                Made::Changed(place, changes) => batch.push(self.entry(&tensor, *place, changes)?),
            }
            if batch.bytes() >= GROUP {
                self.flush(&kernel, std::mem::take(&mut batch), control)?;
            }
        }
        self.flush(&kernel, batch, control)
    }

    /// Copies what another slab holds, within the device.
    fn take(&self, tensor: &VariantTensor<'_>, place: Place<'_>) -> Result<(), VariantError> {
        let Place::Slab(view, begin) = place else { return Ok(()) };
        let length = tensor.length().filter(|length| self.memory.holds(tensor.to.start, *length));
        let length = length.ok_or_else(|| tensor.outside())?;
        let from = view.as_cuda().filter(|from| from.holds(begin, length)).ok_or_else(|| tensor.outside())?;
        Ok(self.memory.copy_from(tensor.to.start, from, begin, length).map_err(failed("copying within the device"))?)
    }

    /// Reads a tensor's modules and finds its bytes.
    fn entry(
        &self,
        tensor: &VariantTensor<'_>,
        place: Place<'_>,
        changes: &[Change<'_>],
    ) -> Result<Entry, VariantError> {
        let outside = || tensor.outside();
        let length = tensor.length().ok_or_else(outside)?;
        let (from, at) = match place {
            Place::Slab(view, at) => (view.as_cuda().ok_or_else(outside)?, at),
            Place::Here => (&self.memory, tensor.to.start),
        };
        if !from.holds(at, length) || !self.memory.holds(tensor.to.start, length) {
            return Err(outside());
        }
        let whole = elements(tensor.shape).and_then(|count| count.checked_mul(tensor.element.bytes()));
        if whole != Some(length) {
            let (stem, expected) = (String::new(), tensor.shape.to_vec());
            return Err(failure(tensor, MergeError::Shape { stem, found: [length, 1], expected }));
        }
        let stored =
            stored(tensor.element).ok_or_else(|| failure(tensor, MergeError::Type { found: tensor.element }))?;
        let added = self.added(tensor, (from, at, length), changes)?;
        let (rows, columns) = matrix(tensor.shape);
        let small = |side: usize| u32::try_from(side).map_err(|_| outside());
        Ok(Entry {
            tensor: tensor.name.to_owned(),
            element: tensor.element,
            length,
            from: from.pointer() + at,
            to: self.memory.pointer() + tensor.to.start,
            stored,
            rows: small(rows)?,
            columns: small(columns)?,
            added,
        })
    }

    fn added(
        &self,
        tensor: &VariantTensor<'_>,
        (from, at, length): (&CudaMemory, u64, usize),
        changes: &[Change<'_>],
    ) -> Result<Vec<Added>, VariantError> {
        let modules = modules(changes).map_err(|error| failure(tensor, error.into()))?;
        let bytes = || {
            let mut bytes = vec![0; length];
            let read = from.read(at, &mut bytes).map_err(failed("copying from the device"));
            read.map(|()| Cow::Owned(bytes)).map_err(|error| MergeError::Memory { answer: error.to_string() })
        };
        let stored = Stored { element: tensor.element, shape: tensor.shape, bytes: &bytes };
        let added = modules.iter().map(|(module, strength)| added(tensor.name, stored, module, *strength));
        added.filter_map(Result::transpose).collect::<Result<_, _>>().map_err(|error| failure(tensor, error))
    }

    fn flush(&self, kernel: &Kernel, batch: Batch, control: &MergeControl<'_>) -> Result<(), VariantError> {
        let work = match batch.is_empty() {
            true => return Ok(()),
            false => self.memory.beside(batch.bytes())?,
        };
        batch.carry_out(kernel, &work)?;
        (control.done)(batch.made());
        Ok(())
    }
}

fn failure(tensor: &VariantTensor<'_>, error: MergeError) -> VariantError {
    VariantError::Tensor(Failed { tensor: tensor.name.to_owned(), error })
}

/// The type's number in `merge.cu`; none for one that is not changed.
fn stored(element: ElementType) -> Option<u32> {
    match element {
        ElementType::F32 => Some(0),
        ElementType::F16 => Some(1),
        ElementType::Bf16 => Some(2),
        _ => None,
    }
}
