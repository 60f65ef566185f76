//! The pages of a draft: made by one thread ahead of the bytes that go there, huge ones where the system gives them cheaply.
//!
//! Sixteen megabytes are asked for at a time: for each request the kernel first has every processor empty its lists of
//! pages, and where all of them hash that takes longer than the pages of one huge page.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use huge_pages::{HUGE, Window};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::retry_on_intr,
    time::{ClockId, clock_gettime},
};

use super::{
    BIG, PAGE,
    trial::{GROUP, Pages, Trial},
};

/// How far a draft's pages are made.
#[derive(Debug, Default)]
pub(super) struct Backing {
    made: Mutex<Made>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Made {
    /// Somebody makes them just now.
    under_way: bool,
    /// All before here are there; the group that is being made begins here.
    end: u64,
    /// Groups after that one for whose pages somebody did not wait.
    begun: BTreeSet<u64>,
}

/// While it lives others wait for pages instead of making them.
struct Making<'a>(&'a Backing);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.made().under_way = false;
        self.0.changed.notify_all();
    }
}

impl Backing {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all pages of a file of `len` bytes, group by group. `group` does what it is given and is asked before each; an
    /// error of its own ends this.
    ///
    /// # Errors
    /// When the system has no memory, or what `group` answers.
    pub(super) fn make(
        &self,
        file: &OwnedFd,
        len: u64,
        mut group: impl FnMut(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.made().under_way = true;
        let making = Making(self);
        let mut window = Window::open(file, len).ok().filter(|_| len >= BIG);
        let mut trial = Trial::default();
        while self.made().end < len {
            let (begin, is_begun) = {
                let made = self.made();
                (made.end, made.begun.contains(&(made.end / GROUP)))
            };
            let end = (begin + GROUP).min(len);
            group(&mut || match is_begun {
                // putting what is there into huge pages would cost a copy
                true => make_small(file, begin, end),
                false => make_group(file, &mut window, &mut trial, (begin, end)),
            })?;
            self.made().end = end;
            self.changed.notify_all();
        }
        // a file that is mapped cannot be sealed
        drop(window);
        drop(making);
        Ok(())
    }

    /// Waits while the pages of `begin..end` are being made; false when whoever asks is to make them: nobody else does, or
    /// memory is so slow to come that two are better than one.
    pub(super) fn wait(&self, begin: u64, end: u64) -> bool {
        let mut made = self.made();
        while made.under_way && made.end < end {
            if begin >= made.end.saturating_add(GROUP) {
                made.begun.extend(begin / GROUP..end.div_ceil(GROUP));
                return false;
            }
            made = self.changed.wait(made).unwrap_or_else(PoisonError::into_inner);
        }
        made.end >= end
    }
}

/// What the way that is on trial costs is measured as this thread's time on a processor: waiting for one says nothing about
/// pages.
fn make_group(
    file: &OwnedFd,
    window: &mut Option<Window>,
    trial: &mut Trial,
    (begin, end): (u64, u64),
) -> io::Result<()> {
    let (pages, before) = (if window.is_some() { trial.way() } else { Pages::Small }, processor_time());
    if pages == Pages::Huge && window.as_ref().is_some_and(|window| !make_huge(file, window, begin, end)) {
        *window = None;
    }
    // what got no huge page gets ordinary ones
    make_small(file, begin, end)?;
    trial.record(pages, end - begin, processor_time().saturating_sub(before));
    Ok(())
}

/// A signal, of a child that ended for one, is no lack of memory.
fn make_small(file: &OwnedFd, begin: u64, end: u64) -> io::Result<()> {
    Ok(retry_on_intr(|| fallocate(file, FallocateFlags::empty(), begin, end - begin))?)
}

/// False when the kernel does not know or does not allow it.
fn make_huge(file: &OwnedFd, window: &Window, begin: u64, end: u64) -> bool {
    for unit in (begin..end).step_by(HUGE as usize) {
        // one page of each must be there; that there is no memory at all is found out by who makes the rest
        if fallocate(file, FallocateFlags::empty(), unit, PAGE).is_err() {
            return true;
        }
    }
    let whole = (end - begin) / HUGE * HUGE;
    !window.collapse(begin, whole).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
