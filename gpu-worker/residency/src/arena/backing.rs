//! The pages of a draft: huge ones where the system gives them cheaply, asked for just ahead of the bytes that go there.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use huge_pages::{HUGE, Window};
use rustix::fs::{FallocateFlags, fallocate};

use super::{
    BIG, PAGE,
    trial::{Pages, Trial},
};

/// How a draft's pages came to be so far.
#[derive(Debug, Default)]
pub(super) struct Backing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    trial: Trial,
    /// For each huge page's worth whether it was decided what it is made of.
    decided: Vec<bool>,
    ask: Ask,
}

/// The way to ask for huge pages.
#[derive(Debug, Default)]
enum Ask {
    #[default]
    NotYet,
    Through(Window),
    /// The kernel does not know or does not allow it.
    Refused,
}

/// What was asked for a range, and how long the answer took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pages: Pages,
    took: Duration,
}

impl Backing {
    /// Asks for huge pages wherever `begin..end` lies in a file of `len` bytes, unless that was decided before. What gets
    /// none is left as it is: ordinary pages come with the bytes.
    ///
    /// # Errors
    /// When the system has no memory at all.
    pub(super) fn ask(&self, file: &OwnedFd, len: u64, begin: u64, end: u64) -> io::Result<Asked> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (pages, began) = (state.trial.way(), Instant::now());
        if len >= BIG && begin < end {
            state.decided.resize((len / HUGE) as usize, false);
            for unit in begin / HUGE..end.div_ceil(HUGE) {
                state.decide(file, len, unit, pages)?;
            }
        }
        Ok(Asked { pages, took: began.elapsed() })
    }

    /// The range is filled: so many bytes, written in this time.
    pub(super) fn filled(&self, asked: Asked, bytes: u64, writing: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.trial.record(asked.pages, bytes, asked.took + writing);
    }

    /// Lets go of the file: it cannot be sealed while it is mapped.
    pub(super) fn close(self) {
        drop(self);
    }
}

impl State {
    fn decide(&mut self, file: &OwnedFd, len: u64, unit: u64, pages: Pages) -> io::Result<()> {
        let Some(decided) = usize::try_from(unit).ok().and_then(|unit| self.decided.get_mut(unit)) else {
            return Ok(());
        };
        if std::mem::replace(decided, true) || pages == Pages::Small {
            return Ok(());
        }
        if matches!(self.ask, Ask::NotYet) {
            self.ask = Window::open(file, len).map_or(Ask::Refused, Ask::Through);
        }
        let Ask::Through(window) = &self.ask else { return Ok(()) };
        // one page of each must be there
        fallocate(file, FallocateFlags::empty(), unit * HUGE, PAGE)?;
        match window.collapse(unit * HUGE) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.ask = Ask::Refused,
            // none to be had there: its bytes get ordinary pages, and the cost of having asked counts
            Ok(()) | Err(_) => {}
        }
        Ok(())
    }
}
