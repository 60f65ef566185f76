//! Which calls are to stop, told by the thread that reads commands to those that work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use engine::Cancel;

use super::protocol::Call;

/// Which calls are to stop.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancelled(Arc<Mutex<Marks>>);

#[derive(Debug, Default)]
struct Marks {
    /// The process is to end: every call stops.
    all: bool,
    /// Calls that were named: by a cancel, or by the command itself when it began.
    calls: HashMap<Call, Cancel>,
}

impl Cancelled {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flag of a call, set already when it was cancelled before it began.
    pub(super) fn flag(&self, call: Call) -> Cancel {
        let mut marks = self.marks();
        let flag = marks.calls.entry(call).or_default().clone();
        if marks.all {
            flag.cancel();
        }
        flag
    }

    /// This call is to stop.
    pub(super) fn cancel(&self, call: Call) {
        self.marks().calls.entry(call).or_default().cancel();
    }

    /// Every call is to stop, also those to come.
    pub(super) fn cancel_all(&self) {
        let mut marks = self.marks();
        marks.all = true;
        marks.calls.values().for_each(Cancel::cancel);
    }

    /// This call has ended.
    pub(super) fn forget(&self, call: Call) {
        self.marks().calls.remove(&call);
    }
}
