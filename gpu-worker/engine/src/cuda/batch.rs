//! Tensors whose changes go up to the device together: counters, descriptions of the changes and factors in one image.
#![expect(unsafe_code, reason = "launches name addresses; the ranges were checked and are held here")]

use cudarc::driver::sys::CUdeviceptr;

use super::{
    errors::failed,
    kernel::{self, Kernel, Launch},
    slab::CudaMemory,
};
use crate::{
    ElementType,
    lora::{Added, Delta, Failed, MergeError, VariantError},
};

/// Bytes of a counter.
const COUNTER: usize = size_of::<u32>();
/// Everything begins at a multiple of this.
const ALIGN: usize = 16;

/// A tensor that is to be changed. Its ranges lie in allocations that the writer's caller holds.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) tensor: String,
    pub(super) element: ElementType,
    pub(super) length: usize,
    pub(super) from: CUdeviceptr,
    pub(super) to: CUdeviceptr,
    pub(super) stored: u32,
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) added: Vec<Added>,
}

/// Entries, and how long their image is.
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    factors: usize,
}

impl Batch {
    pub(super) fn push(&mut self, entry: Entry) {
        self.factors +=
            entry.added.iter().map(|added| factors(&added.delta).map(bytes_of).iter().sum::<usize>()).sum::<usize>();
        self.entries.push(entry);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the tensors that it makes.
    pub(super) fn made(&self) -> u64 {
        self.entries.iter().map(|entry| entry.length as u64).sum()
    }

    /// Bytes of its image.
    pub(super) fn bytes(&self) -> usize {
        self.descriptions_end() + self.factors
    }

    fn counters_end(&self) -> usize {
        (self.entries.len() * COUNTER).next_multiple_of(ALIGN)
    }

    fn descriptions_end(&self) -> usize {
        let count: usize = self.entries.iter().map(|entry| entry.added.len()).sum();
        (self.counters_end() + count * size_of::<kernel::Added>()).next_multiple_of(ALIGN)
    }

    /// Sends the image up to `work`, which is as long, and makes all tensors; on return they are made.
    pub(super) fn carry_out(&self, kernel: &Kernel, work: &CudaMemory) -> Result<(), VariantError> {
        let mut image = vec![0_u8; self.descriptions_end()];
        image.reserve_exact(self.factors);
        let mut description = self.counters_end();
        let mut launches = Vec::with_capacity(self.entries.len());
        for (number, entry) in self.entries.iter().enumerate() {
            launches.push(Launch {
                from: entry.from,
                to: entry.to,
                stored: entry.stored,
                rows: entry.rows,
                columns: entry.columns,
                changes: work.pointer() + description as u64,
                count: u32::try_from(entry.added.len()).unwrap_or(u32::MAX),
                lost: work.pointer() + (number * COUNTER) as u64,
            });
            for added in &entry.added {
                let described = laid_out(added, work.pointer(), &mut image);
                let end = description + size_of::<kernel::Added>();
                if let Some(place) = image.get_mut(description..end) {
                    place.copy_from_slice(&described.to_bytes());
                }
                description = end;
            }
        }
        work.write(0, &image).map_err(failed("copying to the device"))?;
        for launch in &launches {
            // SAFETY: the tensors' ranges were checked when the entries were made, and whoever ordered the merge holds their
            // allocations; the rest lies in `work`, which is held until the counters have come back, after the last launch.
            unsafe { kernel.launch(launch) }.map_err(failed("starting a merge on the device"))?;
        }
        self.check(work)
    }

    /// Waits for the launches and looks at the counters.
    fn check(&self, work: &CudaMemory) -> Result<(), VariantError> {
        let mut counters = vec![0; self.entries.len() * COUNTER];
        work.read(0, &mut counters).map_err(failed("merging on the device"))?;
        for (entry, counter) in self.entries.iter().zip(counters.as_chunks().0) {
            match u32::from_le_bytes(*counter) {
                0 => {}
                values => {
                    let error = MergeError::Overflow { values: values as usize, element: entry.element };
                    return Err(VariantError::Tensor(Failed { tensor: entry.tensor.clone(), error }));
                }
            }
        }
        Ok(())
    }
}

/// The factors of a change, the second of none empty.
fn factors(delta: &Delta) -> [&[f32]; 2] {
    match delta {
        Delta::Product { up, down, .. } => [up, down],
        Delta::Full(values) => [values, &[]],
    }
}

/// Bytes of a factor in the image.
fn bytes_of(factor: &[f32]) -> usize {
    size_of_val(factor).next_multiple_of(ALIGN)
}

/// Appends a change's factors to the image that will lie at `base`; where they are.
fn laid_out(added: &Added, base: CUdeviceptr, image: &mut Vec<u8>) -> kernel::Added {
    let (rank, scale) = match &added.delta {
        Delta::Product { rank, .. } => (u32::try_from(*rank).unwrap_or(u32::MAX), added.scale),
        Delta::Full(_) => (0, 1.0),
    };
    let [first, second] = factors(&added.delta);
    let left = base + image.len() as u64;
    // the left factor of a product is scaled here, as the processor's loop does it
    append(image, first.iter().map(|value| value * scale));
    let right = base + image.len() as u64;
    append(image, second.iter().copied());
    kernel::Added { left, right, scale: added.scale, rank }
}

fn append(image: &mut Vec<u8>, values: impl Iterator<Item = f32>) {
    values.for_each(|value| image.extend_from_slice(&value.to_le_bytes()));
    image.resize(image.len().next_multiple_of(ALIGN), 0);
}
