//! Writing to a slab from another thread while its device goes on: variants are computed straight into the slab.

use std::{fmt, io, sync::Arc};

use crate::{
    DeviceError,
    cuda::CudaWriter,
    lora::{MergeControl, Trouble, VariantError, VariantTensor, carry_out, tasks_on_host},
    mapped::MappedMut,
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
    let maps = slabs.iter().map(|(writer, _)| writer.file.map_mut(writer.bytes));
    let mut maps = maps.collect::<Result<Vec<_>, _>>().map_err(mapping)?;
    let (mut writers, mut groups) = (Vec::with_capacity(slabs.len()), Vec::with_capacity(slabs.len()));
    for ((writer, tensors), map) in slabs.into_iter().zip(&mut maps) {
        let map = map.as_mut().map(MappedMut::as_mut_slice);
        groups.push(tasks_on_host(writer.file.as_ref(), writer.bytes, map, tensors)?);
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

fn mapping(source: io::Error) -> VariantError {
    VariantError::Device(DeviceError::System { what: "mapping a slab for its writer", source })
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::{
        Cancel, CpuDevice, Device, ElementType,
        lora::{Made, Place},
    };

    /// From here on slabs have huge pages, and those that have are written through a mapping.
    const BIG: usize = 18 << 20;

    fn numbers(seed: u32) -> Vec<u8> {
        (0..BIG as u32).map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 17) as u8).collect()
    }

    /// Pieces of another slab of the same size, in these places.
    fn pieces(view: &crate::SlabView, places: &[std::ops::Range<usize>]) -> Vec<(std::ops::Range<u64>, [usize; 1])> {
        assert_eq!(view.bytes(), BIG as u64);
        places.iter().map(|place| (place.start as u64..place.end as u64, [place.len()])).collect()
    }

    #[test]
    fn a_large_slab_has_what_was_written_and_nothing_else_also_in_the_memory_of_another() {
        let mut device = CpuDevice::new(4 * BIG as u64);
        let source = device.allocate(BIG as u64).unwrap();
        let mut slab = device.reserve(BIG as u64).unwrap();
        let places = [256..5 << 20, 5 << 20..(7 << 20) + 12, (9 << 20) + 1..BIG - 100, BIG - 100..BIG];
        let mut before = vec![0; BIG];
        for seed in 0..3 {
            let bytes = numbers(seed);
            device.write(source, 0, &bytes).unwrap();
            let view = device.view(source).unwrap();
            let pieces = pieces(&view, &places);
            let tensors = pieces.iter().map(|(to, shape)| VariantTensor {
                name: "piece",
                element: ElementType::U8,
                shape,
                to: to.clone(),
                made: Made::Taken(Place::Slab(&view, to.start)),
            });
            let control =
                MergeControl { threads: NonZeroUsize::new(3).unwrap(), done: &|_| {}, cancel: &Cancel::new() };
            device.writer(slab).unwrap().merge(tensors.collect(), &control).unwrap();
            drop(view);
            let mut seen = vec![1; BIG];
            device.read(slab, 0, &mut seen).unwrap();
            for place in &places {
                assert!(seen[place.clone()] == bytes[place.clone()], "{place:?}");
                before[place.clone()].copy_from_slice(&bytes[place.clone()]);
            }
            assert!(seen == before, "bytes between tensors changed");
            let memory = device.memory().unwrap();
            assert_eq!((memory.used_bytes, memory.system_bytes), (2 * BIG as u64, 2 * BIG as u64));
            slab = device.replace(slab, BIG as u64).unwrap();
        }
    }
}
