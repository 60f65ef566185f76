//! Cuts a component into slices of memory to fill, and groups neighbours into one read each.

use crate::{layout::Layout, request::LoadRequest};

/// Bytes between two ranges that are cheaper to read than to skip.
const GAP_MAX: u64 = 64 << 10;

/// A part of one tensor: where it is in its file, and the memory it fills.
#[derive(Debug)]
pub(super) struct Slice<'m> {
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
    /// The memory.
    pub(super) out: &'m mut [u8],
}

/// Slices that one read of one file brings.
#[derive(Debug)]
pub(super) struct Batch<'m> {
    pub(super) file: usize,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) slices: Vec<Slice<'m>>,
}

/// Number of slices of a tensor; an empty one has one, which is hashed and not read.
pub(super) fn slices(len: u64, chunk: usize) -> usize {
    usize::try_from(len.div_ceil(chunk as u64).max(1)).unwrap_or(usize::MAX)
}

/// All batches, in file order. Every byte of `memory` that belongs to a tensor is in exactly one
/// slice; the padding is zeroed here, so that every page of the extent exists and is accounted.
pub(super) fn plan<'m>(
    request: &LoadRequest,
    layout: &Layout,
    memory: &'m mut [u8],
    chunk: usize,
) -> Vec<Batch<'m>> {
    let mut batches: Vec<Batch<'m>> = Vec::new();
    let (mut rest, mut at) = (memory, 0_u64);
    for (tensor, (placed, index)) in layout.tensors.iter().zip(&layout.order).enumerate() {
        let (padding, tail) = rest.split_at_mut((placed.offset - at) as usize);
        padding.fill(0);
        let (mut bytes, tail) = tail.split_at_mut(placed.len as usize);
        (rest, at) = (tail, placed.offset + placed.len);
        let range = &request.tensors[*index];
        let whole = placed.len <= chunk as u64;
        for index in 0..slices(placed.len, chunk) {
            let (out, more) = bytes.split_at_mut(chunk.min(bytes.len()));
            bytes = more;
            let offset = index as u64 * chunk as u64;
            let slice = Slice {
                tensor,
                index,
                offset,
                whole,
                begin: range.begin + offset,
                out,
            };
            add(&mut batches, range.file_index, slice, chunk as u64);
        }
    }
    rest.fill(0);
    batches
}

fn add<'m>(batches: &mut Vec<Batch<'m>>, file: usize, slice: Slice<'m>, chunk: u64) {
    let end = slice.begin + slice.out.len() as u64;
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
    batches.push(Batch {
        file,
        begin: slice.begin,
        end,
        slices: vec![slice],
    });
}
