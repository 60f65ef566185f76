//! Cuts a component into slices, and groups neighbours into one read and one allocation each: pure arithmetic.

use crate::{layout::Layout, request::LoadRequest};

/// Bytes between two ranges that are cheaper to read than to skip.
const GAP_MAX: u64 = 64 << 10;

/// A part of one tensor: where it is in its file and where it goes.
#[derive(Debug)]
pub(super) struct Slice {
    /// Index in the layout.
    pub(super) tensor: usize,
    /// Which slice of the tensor.
    pub(super) index: usize,
    /// Offset within the tensor.
    pub(super) offset: u64,
    /// Whether it is the tensor's only slice.
    pub(super) whole: bool,
    /// First byte in the file.
    pub(super) begin: u64,
    /// First byte in the extent.
    pub(super) to: u64,
    /// Bytes; at most one chunk.
    pub(super) len: usize,
}

/// Slices that one read of one file brings; they are neighbours in the extent too.
#[derive(Debug)]
pub(super) struct Batch {
    /// Its place among all batches.
    pub(super) number: usize,
    pub(super) file: usize,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) slices: Vec<Slice>,
}

impl Batch {
    /// The part of the extent that it fills.
    pub(super) fn target(&self) -> (u64, u64) {
        let begin = self.slices.first().map_or(0, |slice| slice.to);
        let end = self.slices.last().map_or(0, |slice| slice.to + slice.len as u64);
        (begin, end)
    }
}

/// Number of slices of a tensor; an empty one has one, which is hashed and not read.
pub(super) fn slices(len: u64, chunk: usize) -> usize {
    usize::try_from(len.div_ceil(chunk as u64).max(1)).unwrap_or(usize::MAX)
}

/// All batches, in file order, which is the extent's. Every byte of every tensor is in exactly one slice.
pub(super) fn plan(request: &LoadRequest, layout: &Layout, chunk: usize) -> Vec<Batch> {
    let mut batches = Vec::new();
    for (tensor, (placed, index)) in layout.tensors.iter().zip(&layout.order).enumerate() {
        let range = &request.tensors[*index];
        for index in 0..slices(placed.len, chunk) {
            let offset = index as u64 * chunk as u64;
            let slice = Slice {
                tensor,
                index,
                offset,
                whole: placed.len <= chunk as u64,
                begin: range.begin + offset,
                to: placed.offset + offset,
                len: (placed.len - offset).min(chunk as u64) as usize,
            };
            add(&mut batches, range.file_index, slice, chunk as u64);
        }
    }
    batches
}

fn add(batches: &mut Vec<Batch>, file: usize, slice: Slice, chunk: u64) {
    let end = slice.begin + slice.len as u64;
    if let Some(last) = batches.last_mut()
        && last.file == file
        && slice.begin >= last.begin
        && slice.begin <= last.end.saturating_add(GAP_MAX)
        && end.max(last.end) - last.begin <= chunk
    {
        last.end = last.end.max(end);
        last.slices.push(slice);
        return;
    }
    batches.push(Batch { number: batches.len(), file, begin: slice.begin, end, slices: vec![slice] });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::request::{IoOptions, TensorRange};

    /// Larger than the gaps that may be read, so that they are bounded by themselves.
    const CHUNK: u64 = 4 * GAP_MAX;

    /// Which file, bytes after the tensor before it (negative: back into it), bytes.
    fn tensors() -> impl Strategy<Value = Vec<(usize, i64, u64)>> {
        let edge = GAP_MAX as i64;
        let gap = prop_oneof![Just(0), -2000..2000_i64, edge - 2..edge + 3, 0..8 * edge];
        let len = prop_oneof![Just(0), 1..600_u64, CHUNK - 2..CHUNK + 3, 0..5 * CHUNK];
        proptest::collection::vec((0..3_usize, gap, len), 0..24)
    }

    fn request(tensors: &[(usize, i64, u64)]) -> LoadRequest {
        let mut at = [0_u64; 3];
        let ranges = tensors.iter().enumerate().map(|(number, &(file_index, gap, len))| {
            let begin = at[file_index].saturating_add_signed(gap);
            at[file_index] = begin + len;
            let (name, dtype) = (number.to_string(), "U8".to_owned());
            TensorRange { name, dtype, shape: vec![len], file_index, begin, end: begin + len }
        });
        LoadRequest {
            key: "m".into(),
            sources: Vec::new(),
            tensors: ranges.collect(),
            gathered: Vec::new(),
            expected_digest: None,
            wanted_by: None,
            io: IoOptions::default(),
        }
    }

    /// What is read of a file is what its tensors hold, but for gaps that are cheaper to read than to skip.
    fn reads_nothing_else(batch: &Batch) -> Result<(), TestCaseError> {
        let mut read = batch.begin;
        for slice in &batch.slices {
            prop_assert!(slice.begin.saturating_sub(read) <= GAP_MAX, "{batch:?}");
            read = read.max(slice.begin + slice.len as u64);
        }
        prop_assert_eq!((batch.slices[0].begin, read), (batch.begin, batch.end));
        prop_assert!(batch.end - batch.begin <= CHUNK, "{:?}", batch);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_byte_of_every_tensor_is_in_one_slice_and_nothing_else_is_read(given in tensors()) {
            let request = request(&given);
            let layout = Layout::plan(&request).unwrap();
            let batches = plan(&request, &layout, CHUNK as usize);
            let mut found: BTreeMap<usize, Vec<&Slice>> = BTreeMap::new();
            let mut filled = 0;
            for (number, batch) in batches.iter().enumerate() {
                prop_assert_eq!(batch.number, number);
                reads_nothing_else(batch)?;
                // batches follow each other in the extent: none writes where another does
                let (begin, end) = batch.target();
                prop_assert!(filled <= begin && begin <= end, "{:?}", batch);
                filled = end;
                for slice in &batch.slices {
                    let wanted = &request.tensors[layout.order[slice.tensor]];
                    prop_assert_eq!((batch.file, slice.begin), (wanted.file_index, wanted.begin + slice.offset));
                    prop_assert_eq!(slice.to, layout.tensors[slice.tensor].offset + slice.offset);
                    found.entry(slice.tensor).or_default().push(slice);
                }
            }
            prop_assert_eq!(found.len(), request.tensors.len());
            for (tensor, of_tensor) in found {
                let len = layout.tensors[tensor].len;
                prop_assert_eq!(of_tensor.len(), slices(len, CHUNK as usize));
                let mut covered = 0;
                for (index, slice) in of_tensor.iter().enumerate() {
                    prop_assert_eq!((slice.index, slice.offset, slice.whole), (index, covered, len <= CHUNK));
                    covered += slice.len as u64;
                }
                prop_assert_eq!(covered, len);
            }
        }
    }
}
