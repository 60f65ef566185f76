//! An aligned buffer between file and extent: tensors lie in a file at any offset, direct reads want aligned memory, so a
//! copy is needed; it is done right after hashing, in cache.

use std::io;

use memmap2::{Advice, MmapMut, MmapOptions};

use super::file::ALIGN;

/// Size of a huge page. Measured: a direct read into ordinary pages pins them one by one, and the disk driver cuts it
/// where its list of pages is full (1 MiB with 256 entries). Into huge pages the same disk read two to three times as fast.
const HUGE: usize = 2 << 20;

/// The buffer.
#[derive(Debug)]
pub(super) struct Bounce {
    memory: MmapMut,
    start: usize,
}

impl Bounce {
    /// For reads of up to `chunk` bytes at any offset.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub(super) fn new(chunk: usize) -> io::Result<Self> {
        let align = if chunk >= HUGE { HUGE } else { ALIGN };
        let memory = MmapOptions::new().len(chunk + 3 * ALIGN + align).map_anon()?;
        let start = memory.as_ptr().align_offset(align).min(align);
        if chunk >= HUGE {
            // a hint: without huge pages the reads are right and slower
            let _ = memory.advise_range(Advice::HugePage, start, chunk / HUGE * HUGE);
        }
        Ok(Self { memory, start })
    }

    /// The first `len` bytes, to be read into.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }

    /// So many bytes of what was read, from `begin` on.
    pub(super) fn bytes(&self, begin: usize, len: usize) -> &[u8] {
        let begin = self.start + begin;
        &self.memory[begin..begin + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_for_direct_reads_and_for_huge_pages() {
        for (chunk, align) in [(64 << 10, ALIGN), (HUGE, HUGE), (4 * HUGE, HUGE)] {
            let mut bounce = Bounce::new(chunk).unwrap();
            let room = bounce.room(chunk + 2 * ALIGN);
            assert_eq!(room.as_ptr().align_offset(align), 0);
            room.fill(1);
        }
    }
}
