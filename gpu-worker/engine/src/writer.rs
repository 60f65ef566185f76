//! Writing to a slab from another thread while its device goes on: variants are computed straight into the slab.

use std::{fmt, io, sync::Arc};

use crate::{
    DeviceError,
    cuda::CudaWriter,
    lora::{MergeControl, Trouble, VariantError, VariantTensor, carry_out, tasks_on_host},
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
        merge_all(vec![(self, tensors)], control)
    }
}

/// Makes the tensors of a variant in several slabs, each slab's with it: on the host all at once.
///
/// # Errors
/// As [`SlabWriter::merge`]; none of the slabs is to be used then.
pub fn merge_all(
    slabs: Vec<(&mut SlabWriter, Vec<VariantTensor<'_>>)>,
    control: &MergeControl<'_>,
) -> Result<(), VariantError> {
    let mut on_host = Vec::with_capacity(slabs.len());
    for (writer, tensors) in slabs {
        match &mut writer.0 {
            Memory::Host(writer) => on_host.push((&*writer, tensors)),
            Memory::Cuda(writer) => writer.merge(tensors, control)?,
        }
    }
    merge_on_host(on_host, control)
}

fn merge_on_host(
    slabs: Vec<(&HostWriter, Vec<VariantTensor<'_>>)>,
    control: &MergeControl<'_>,
) -> Result<(), VariantError> {
    let bytes = slabs.iter().map(|(writer, _)| writer.bytes).sum();
    let (mut writers, mut groups) = (Vec::with_capacity(slabs.len()), Vec::with_capacity(slabs.len()));
    for (writer, tensors) in slabs {
        groups.push(tasks_on_host(writer.file.as_ref(), writer.bytes, tensors)?);
        writers.push(writer);
    }
    let done = |bytes: usize| (control.done)(bytes as u64);
    let made = match carry_out(groups, control.threads, &done, control.cancel) {
        // what no tensor covers is promised now
        Ok(()) => writers.iter().try_for_each(|writer| writer.file.promise(writer.bytes)),
        Err(Trouble::Tensor(failed)) => return Err(failed.into()),
        Err(Trouble::Memory(error)) => Err(error),
    };
    made.map_err(|error| refused(error, bytes, writers.first().map_or(0, |writer| writer.capacity_bytes)))
}

fn refused(source: io::Error, needed_bytes: u64, capacity_bytes: u64) -> VariantError {
    VariantError::Device(match source.kind() {
        // the system has less than the budget promised
        io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull => {
            DeviceError::OutOfMemory { needed_bytes, available_bytes: 0, capacity_bytes }
        }
        _ => DeviceError::System { what: "writing to a slab", source },
    })
}

impl fmt::Debug for SlabWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabWriter").finish_non_exhaustive()
    }
}
