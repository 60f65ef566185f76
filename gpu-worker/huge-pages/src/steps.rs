//! Huge pages under a part of a memory file, so many at a time that a cancel is heard soon.
//!
//! For each request the kernel first has every processor empty its lists of pages, and one that computes is late; many pages
//! at a time therefore cost less than one by one. Where it must first move other pages away, a single one may take a tenth of
//! a second. So the number follows what the last ones took on a processor: waiting for one says nothing about pages. Only
//! where they took very long by the clock, too: the kernel may have slept until memory was written away for them.

use std::{
    io,
    ops::Range,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    time::{ClockId, clock_gettime},
};

use crate::{HUGE, Window};

/// An ordinary page.
const PAGE: u64 = 4096;
/// Most huge pages of one request.
const PAGES_MAX: u64 = 8;
/// What a request should take on a processor, at most.
const REQUEST: Duration = Duration::from_millis(20);
/// What it should take by the clock, at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many huge pages are asked for at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    pages: u64,
}

/// What became of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It was asked for to its end; some of it may have got ordinary pages or none.
    Whole,
    /// It was not wanted any more.
    Unwanted,
    /// The kernel does not do that here.
    Refused,
}

impl Default for Steps {
    fn default() -> Self {
        Self { pages: 1 }
    }
}

impl Steps {
    /// After so many pages took this long, on a processor and by the clock: as many as should stay within what a request may
    /// take.
    fn learn(&mut self, pages: u64, computed: Duration, took: Duration) {
        self.pages = fit(pages, computed, REQUEST).min(fit(pages, took, PATIENCE));
    }

    /// Asks for huge pages under `range` of the window's file, as far as whole ones fit into it; `go_on` is asked before each
    /// request. That there is no memory at all is for whoever makes the rest to find out.
    pub fn collapse(
        &mut self,
        file: impl AsFd,
        window: &Window,
        range: Range<u64>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Asked {
        let mut begin = range.start;
        let end = begin + range.end.saturating_sub(begin) / HUGE * HUGE;
        while begin < end {
            if !go_on() {
                return Asked::Unwanted;
            }
            let length = (self.pages * HUGE).min(end - begin);
            let (began, before) = (Instant::now(), processor_time());
            // one ordinary page of each must be there
            let mut units = (begin..begin + length).step_by(HUGE as usize);
            if units.any(|unit| fallocate(file.as_fd(), FallocateFlags::empty(), unit, PAGE).is_err()) {
                return Asked::Whole;
            }
            let asked = window.collapse(begin, length);
            if asked.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
                return Asked::Refused;
            }
            self.learn(length / HUGE, processor_time().saturating_sub(before), began.elapsed());
            begin += length;
        }
        Asked::Whole
    }
}

/// How many pages stay within a time, when so many took this long.
fn fit(pages: u64, took: Duration, within: Duration) -> u64 {
    let each = took.as_nanos() / u128::from(pages.max(1));
    let fit = within.as_nanos().checked_div(each).unwrap_or(u128::from(PAGES_MAX));
    u64::try_from(fit).unwrap_or(PAGES_MAX).clamp(1, PAGES_MAX)
}

/// Time that this thread had on a processor.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};

    use super::*;

    fn file(pages: u64) -> (OwnedFd, Window) {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, pages * HUGE).unwrap();
        let window = Window::open(&file, pages * HUGE).unwrap();
        (file, window)
    }

    #[test]
    fn dear_pages_are_asked_for_one_by_one_and_cheap_ones_together() {
        let mut steps = Steps::default();
        assert_eq!(steps.pages, 1, "nothing is known");
        steps.learn(1, REQUEST / 40, REQUEST);
        assert_eq!(steps.pages, 5, "by the clock they may take longer");
        steps.learn(5, REQUEST / 40, REQUEST / 40);
        assert_eq!(steps.pages, PAGES_MAX);
        steps.learn(8, REQUEST * 2, REQUEST * 2);
        assert_eq!(steps.pages, 4);
        steps.learn(4, Duration::ZERO, PATIENCE * 2);
        assert_eq!(steps.pages, 2, "it slept");
        steps.learn(4, REQUEST * 40, REQUEST * 40);
        assert_eq!(steps.pages, 1);
        steps.learn(1, Duration::ZERO, Duration::ZERO);
        assert_eq!(steps.pages, PAGES_MAX);
    }

    #[test]
    fn a_range_is_asked_for_until_it_is_not_wanted() {
        let (file, window) = file(4);
        let mut asked = 0;
        let mut twice = || {
            asked += 1;
            asked <= 2
        };
        let mut one_by_one = |range| Steps::default().collapse(&file, &window, range, &mut twice);
        if one_by_one(0..HUGE) == Asked::Refused {
            return; // a kernel before 6.1
        }
        assert_eq!(one_by_one(3 * HUGE..4 * HUGE), Asked::Whole);
        assert_eq!(one_by_one(HUGE..3 * HUGE), Asked::Unwanted);
        // the ordinary page of each at the least, and nothing of what was not asked for
        let bytes = u64::try_from(fstat(&file).unwrap().st_blocks).unwrap() * 512;
        assert!((2 * PAGE..=2 * HUGE).contains(&bytes), "{bytes}");
        let mut never = || panic!("no huge page fits");
        assert_eq!(Steps::default().collapse(&file, &window, 1..HUGE, &mut never), Asked::Whole);
    }
}
