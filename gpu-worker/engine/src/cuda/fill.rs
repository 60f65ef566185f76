//! Copying between two places in memory with several threads: one thread moves some 10 GB/s, a bus takes two to five
//! times that.
#![expect(
    unsafe_code,
    reason = "a copy is cut among threads that outlive the borrow; the caller waits for all of them"
)]

use std::{
    io, slice,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Threads beside the caller's, at most.
const HELPERS_MAX: usize = 7;
/// Less is not worth waking a thread for.
const PIECE_MIN: usize = 1 << 20;

/// Threads that copy. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Fillers(Vec<SyncSender<Piece>>);

/// A part of a copy; dropping it says that it is done.
struct Piece {
    from: *const u8,
    to: *mut u8,
    len: usize,
    _done: SyncSender<()>,
}

// SAFETY: the pointers are used by one thread at a time; `Fillers::copy` keeps what they point to alive and untouched.
unsafe impl Send for Piece {}

impl Fillers {
    /// As many as half of the processors, this thread included.
    pub(super) fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let helper = |_| {
            let (sender, pieces) = sync_channel(1);
            thread::Builder::new().name("filler".into()).spawn(move || serve(&pieces))?;
            Ok(sender)
        };
        (1..(processors / 2).clamp(1, HELPERS_MAX + 1)).map(helper).collect::<io::Result<_>>().map(Self)
    }

    /// Copies all of `from` to the start of `to`.
    ///
    /// # Panics
    /// When `to` is shorter.
    pub(super) fn copy(&self, from: &[u8], to: &mut [u8]) {
        let piece = from.len().div_ceil(self.0.len() + 1).max(PIECE_MIN);
        let (to, _) = to.split_at_mut(from.len());
        let (own_from, rest_from) = from.split_at(piece.min(from.len()));
        let (own_to, rest_to) = to.split_at_mut(own_from.len());
        // nothing is ever sent: what counts is when the last sender is gone
        let (done, waiting) = sync_channel(1);
        for ((from, to), helper) in rest_from.chunks(piece).zip(rest_to.chunks_mut(piece)).zip(&self.0) {
            let sent =
                helper.send(Piece { from: from.as_ptr(), to: to.as_mut_ptr(), len: from.len(), _done: done.clone() });
            if sent.is_err() {
                to.copy_from_slice(from);
            }
        }
        own_to.copy_from_slice(own_from);
        drop(done);
        // until every piece is dropped, done or not: nothing points to the memory any more
        while waiting.recv().is_ok() {}
    }
}

fn serve(pieces: &Receiver<Piece>) {
    for piece in pieces {
        // SAFETY: `copy` waits until this piece is dropped, so both ranges live; pieces of one copy do not overlap.
        let (from, to) =
            unsafe { (slice::from_raw_parts(piece.from, piece.len), slice::from_raw_parts_mut(piece.to, piece.len)) };
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_arrives_whole_and_nothing_beyond_it_is_touched() {
        let helper = || {
            let (sender, pieces) = sync_channel(1);
            thread::spawn(move || serve(&pieces));
            sender
        };
        let fillers = Fillers(vec![helper(), helper(), helper()]);
        for len in [0, 1, PIECE_MIN - 1, PIECE_MIN, PIECE_MIN + 1, 3 * PIECE_MIN + 7, 8 * PIECE_MIN] {
            let from: Vec<u8> = (0..len).map(|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
            let mut to = vec![0xee; len + 64];
            fillers.copy(&from, &mut to);
            assert!(to[..len] == from && to[len..].iter().all(|byte| *byte == 0xee), "{len}");
        }
    }

    #[test]
    fn helpers_that_are_gone_are_done_without() {
        let (sender, pieces) = sync_channel(1);
        drop(pieces);
        let from = vec![7; 4 * PIECE_MIN];
        let mut to = vec![0; 4 * PIECE_MIN];
        Fillers(vec![sender]).copy(&from, &mut to);
        assert!(to == from);
    }
}
