//! How the outputs of a layer are cut among threads, and that each part is computed once.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{LANES, LinearError, WIDTH};

/// Outputs in parts of equal width, the last perhaps narrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    outputs: usize,
    width: usize,
}

impl Parts {
    /// As many parts for each thread, as wide as the cache allows, whole groups of lanes but for the last.
    #[must_use]
    pub fn of(outputs: usize, threads: usize) -> Self {
        let threads = threads.max(1);
        let most = threads.saturating_mul(outputs.div_ceil(threads.saturating_mul(WIDTH))).max(1);
        let width = outputs.div_ceil(LANES).div_ceil(most).max(1).saturating_mul(LANES);
        Self { outputs, width }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.outputs.div_ceil(self.width)
    }

    /// The outputs of a part; none of one that there is not.
    #[must_use]
    pub fn span(&self, part: usize) -> Range<usize> {
        let begin = part.saturating_mul(self.width).min(self.outputs);
        begin..begin.saturating_add(self.width).min(self.outputs)
    }
}

/// What computes one part.
pub(crate) trait Work: Sync {
    /// Computes these outputs of every row.
    ///
    /// # Safety
    /// Nobody else computes any of these outputs at the same time.
    #[expect(unsafe_code, reason = "threads write to one result")]
    unsafe fn compute(&self, span: Range<usize>);
}

/// Has `spread` call for every part; a number that comes twice, or is none, computes nothing.
pub(crate) fn spread(
    parts: &Parts,
    spread: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
    work: impl Work,
) -> Result<(), LinearError> {
    let taken: Vec<AtomicBool> = (0..parts.count()).map(|_| AtomicBool::new(false)).collect();
    let done = AtomicUsize::new(0);
    spread(taken.len(), &|part| {
        if taken.get(part).is_some_and(|taken| !taken.swap(true, Ordering::AcqRel)) {
            // SAFETY: spans of different parts have no output in common, and this one was not taken before.
            #[expect(unsafe_code, reason = "threads write to one result")]
            unsafe {
                work.compute(parts.span(part));
            }
            done.fetch_add(1, Ordering::AcqRel);
        }
    });
    match done.into_inner() {
        done if done == taken.len() => Ok(()),
        done => Err(LinearError::Parts { done, parts: taken.len() }),
    }
}
