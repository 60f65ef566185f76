//! How the result of a layer is cut among threads, and that each part is computed once.

use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(target_arch = "x86_64")]
use crate::LinearError;
use crate::{LANES, ROWS, WIDTH};

/// What laying out a part's weights costs, in rows of products.
const LAYING: usize = 12;
/// Rows of a part at least, where there are more: fewer would lay out more than they compute.
const LEAST_ROWS: usize = 8 * ROWS;

/// Outputs and rows in parts of equal sides, the last of each perhaps smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    outputs: usize,
    rows: usize,
    /// Outputs of a part, whole groups of lanes.
    width: usize,
    /// Rows of a part, whole tiles.
    height: usize,
}

impl Parts {
    /// The cut with which the busiest of so many threads has the least to do; of equals the one that lays weights out least often.
    #[must_use]
    pub fn of(outputs: usize, rows: usize, threads: usize) -> Self {
        let threads = threads.max(1);
        let most = rows.checked_div(LEAST_ROWS).unwrap_or(0).clamp(1, threads);
        let cuts = (1..=most).map(|stacks| Self::cut((outputs, rows), threads, stacks));
        let best = cuts.min_by_key(|cut| cut.busiest(threads));
        best.unwrap_or_else(|| Self::cut((outputs, rows), threads, 1))
    }

    /// A cut into so many stacks of rows, as wide as the cache allows.
    fn cut((outputs, rows): (usize, usize), threads: usize, stacks: usize) -> Self {
        let beside = threads.div_ceil(stacks);
        let columns = beside.saturating_mul(outputs.div_ceil(beside.saturating_mul(WIDTH))).max(1);
        let width = outputs.div_ceil(LANES).div_ceil(columns).max(1).saturating_mul(LANES);
        let height = rows.div_ceil(ROWS).div_ceil(stacks).max(1).saturating_mul(ROWS);
        Self { outputs, rows, width, height }
    }

    /// What the thread with the most parts computes, in rows of outputs.
    fn busiest(&self, threads: usize) -> usize {
        let each = self.width.saturating_mul(self.height.min(self.rows).saturating_add(LAYING));
        self.count().div_ceil(threads).saturating_mul(each)
    }

    fn columns(&self) -> usize {
        self.outputs.div_ceil(self.width)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.columns().saturating_mul(self.rows.div_ceil(self.height))
    }

    /// The outputs and the rows of a part; none of one that there is not.
    #[must_use]
    pub fn span(&self, part: usize) -> (Range<usize>, Range<usize>) {
        let (column, stack) = match self.columns() {
            0 => (0, usize::MAX),
            columns => (part % columns, part / columns),
        };
        let range = |at: usize, side: usize, end: usize| {
            let begin = at.saturating_mul(side).min(end);
            begin..begin.saturating_add(side).min(end)
        };
        (range(column, self.width, self.outputs), range(stack, self.height, self.rows))
    }
}

/// What computes one part.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Work: Sync {
    /// Computes these outputs of these rows.
    ///
    /// # Safety
    /// Nobody else computes any of these outputs of any of these rows at the same time.
    #[expect(unsafe_code, reason = "threads write to one result")]
    unsafe fn compute(&self, outputs: Range<usize>, rows: Range<usize>);
}

/// Has `spread` call for every part; a number that comes twice, or is none, computes nothing.
#[cfg(target_arch = "x86_64")]
pub(crate) fn spread(
    parts: &Parts,
    spread: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
    work: impl Work,
) -> Result<(), LinearError> {
    let taken: Vec<AtomicBool> = (0..parts.count()).map(|_| AtomicBool::new(false)).collect();
    let done = AtomicUsize::new(0);
    spread(taken.len(), &|part| {
        if taken.get(part).is_some_and(|taken| !taken.swap(true, Ordering::AcqRel)) {
            let (outputs, rows) = parts.span(part);
            // SAFETY: different parts have no output of a row in common, and this one was not taken before.
            #[expect(unsafe_code, reason = "threads write to one result")]
            unsafe {
                work.compute(outputs, rows);
            }
            done.fetch_add(1, Ordering::AcqRel);
        }
    });
    match done.into_inner() {
        done if done == taken.len() => Ok(()),
        done => Err(LinearError::Parts { done, parts: taken.len() }),
    }
}
