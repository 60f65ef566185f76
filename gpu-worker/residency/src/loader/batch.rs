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
