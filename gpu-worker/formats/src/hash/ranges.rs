//! BLAKE3 of ranges of a file in the same pass: the tensors of a component.

use std::{
    ops::Range,
    sync::{Arc, mpsc::Receiver},
};

use super::pass::Chunk;

/// Hashes each range; ranges may overlap and come in any order. None for one that the file ended before.
pub(super) fn hash(chunks: &Receiver<Arc<Chunk>>, ranges: &[Range<u64>]) -> Vec<Option<[u8; 32]>> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|index| ranges.get(*index).map_or(0, |range| range.start));
    let mut waiting = order.into_iter().peekable();
    let mut open: Vec<(usize, blake3::Hasher)> = Vec::new();
    let mut done = vec![None; ranges.len()];
    let bounds = |index: usize| ranges.get(index).map_or((0, 0), |range| (range.start, range.end));
    for chunk in chunks {
        while let Some(index) = waiting.next_if(|index| bounds(*index).0 < chunk.end()) {
            open.push((index, blake3::Hasher::new()));
        }
        open.retain_mut(|(index, hasher)| {
            let (begin, end) = bounds(*index);
            hasher.update(chunk.within(begin, end));
            if end <= chunk.end()
                && let Some(slot) = done.get_mut(*index)
            {
                *slot = Some(*hasher.finalize().as_bytes());
                return false;
            }
            true
        });
    }
    // an empty range may lie at the very end
    for index in waiting.filter(|index| bounds(*index).0 >= bounds(*index).1) {
        if let Some(slot) = done.get_mut(index) {
            *slot = Some(*blake3::hash(&[]).as_bytes());
        }
    }
    done
}
