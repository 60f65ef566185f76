//! The pages of a draft: made by one thread ahead of the bytes that go there, huge ones where the system gives them cheaply.
//!
//! Not far ahead: a load from a slow disk would else hold memory for what comes in minutes.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use huge_pages::{Asked, Steps, Window, processor_time};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::retry_on_intr,
};

use super::{
    BIG,
    trial::{GROUP, Pages, Trial},
};

/// How far ahead of the bytes pages are made: what the reads of a load that are under way at a time fill, and some.
pub(super) const AHEAD: u64 = 4 * GROUP;
/// How often somebody who waits for bytes looks whether they are still wanted.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 50 });

/// How far a draft's pages are made.
#[derive(Debug, Default)]
pub(super) struct Backing {
    made: Mutex<Made>,
    changed: Condvar,
    /// Bytes came whose pages are made, or not yet.
    came: Condvar,
}

#[derive(Debug, Default)]
struct Made {
    /// Somebody makes them just now.
    under_way: bool,
    /// All before here are there; the group that is being made begins here.
    end: u64,
    /// The furthest byte that has come.
    needed: u64,
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

/// What a file's pages are made with.
struct Maker<'a> {
    file: &'a OwnedFd,
    window: Option<Window>,
    steps: Steps,
    trial: Trial,
}

impl Backing {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the pages of a file of `len` bytes before `end`, group by group, never far ahead of the bytes that come before
    /// `until`. `kept` is held while a group is made; an error of its own ends this.
    ///
    /// # Errors
    /// `Interrupted` once they are not `wanted`; when the system has no memory; or what `kept` answers.
    pub(super) fn make<K>(
        &self,
        file: &OwnedFd,
        (len, end, until): (u64, u64, u64),
        wanted: impl Fn() -> bool,
        kept: impl Fn() -> io::Result<K>,
    ) -> io::Result<()> {
        self.made().under_way = true;
        let making = Making(self);
        let window = Window::open(file, len).ok().filter(|_| len >= BIG);
        let mut maker = Maker { file, window, steps: Steps::default(), trial: Trial::default() };
        while let Some((begin, is_begun)) = self.next(end, until, &wanted)? {
            let end = (begin + GROUP).min(end);
            let _kept = kept()?;
            match is_begun {
                // putting what is there into huge pages would cost a copy
                true => make_small(file, begin, end),
                false => maker.group(begin, end, &wanted),
            }?;
            self.made().end = end;
            self.changed.notify_all();
        }
        // a file that is mapped cannot be sealed
        drop(maker);
        drop(making);
        Ok(())
    }

    /// Where the next group begins, once it is due, and whether somebody has begun it; none after the last.
    fn next(&self, last: u64, until: u64, wanted: &impl Fn() -> bool) -> io::Result<Option<(u64, bool)>> {
        let mut made = self.made();
        loop {
            if made.end >= last {
                return Ok(None);
            }
            if !wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if made.needed >= until || made.end < made.needed.saturating_add(AHEAD) {
                return Ok(Some((made.end, made.begun.contains(&(made.end / GROUP)))));
            }
            made = self.came.wait_timeout(made, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits while the pages of `begin..end`, whose bytes have come, are being made; false when whoever asks is to make them:
    /// nobody else does, or memory is so slow to come that two are better than one.
    pub(super) fn wait(&self, begin: u64, end: u64) -> bool {
        let mut made = self.made();
        if made.needed < end {
            made.needed = end;
            self.came.notify_one();
        }
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

impl Maker<'_> {
    /// What the way that is on trial costs is measured as this thread's time on a processor: waiting for one says nothing about
    /// pages.
    fn group(&mut self, begin: u64, end: u64, wanted: &impl Fn() -> bool) -> io::Result<()> {
        let way = if self.window.is_some() { self.trial.way() } else { Pages::Small };
        let before = processor_time();
        if let Some(window) = self.window.as_ref().filter(|_| way == Pages::Huge) {
            match self.steps.collapse(self.file, window, begin..end, &mut || wanted()) {
                Asked::Whole => {}
                Asked::Unwanted => return Err(io::ErrorKind::Interrupted.into()),
                Asked::Refused => self.window = None,
            }
        }
        // what got no huge page gets ordinary ones
        make_small(self.file, begin, end)?;
        self.trial.record(way, end - begin, processor_time().saturating_sub(before));
        Ok(())
    }
}

/// A signal, of a child that ended for one, is no lack of memory.
fn make_small(file: &OwnedFd, begin: u64, end: u64) -> io::Result<()> {
    Ok(retry_on_intr(|| fallocate(file, FallocateFlags::empty(), begin, end - begin))?)
}
