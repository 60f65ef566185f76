//! Merges under way: each on a thread of its own, so that the device obeys other commands meanwhile.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::SyncSender,
    time::Duration,
};

use engine::Cancel;
use shared::error::{ErrorBody, ErrorCode};

use super::{
    child::Heard,
    copies::CopyError,
    engine_thread::Idle,
    merge::{Merge, Merged},
    protocol::{Call, Failure, Step},
    variants::Pending,
};

/// The merges of one runner.
pub(super) struct Merges {
    threads: NonZeroUsize,
    ended: SyncSender<Heard>,
    idle: Idle,
    pending: BTreeMap<Call, Box<Pending>>,
}

impl Merges {
    /// None is under way. Each uses so many threads; `ended` hears when one is through.
    pub(super) fn new(threads: NonZeroUsize, ended: SyncSender<Heard>) -> Self {
        Self { threads, ended, idle: Idle::default(), pending: BTreeMap::new() }
    }

    /// Carries a merge out; `tell` hears how far it is. Without a thread for it, it has ended at once.
    pub(super) fn begin(
        &mut self,
        call: Call,
        (merge, pending): (Box<Merge>, Box<Pending>),
        cancel: Cancel,
        tell: impl FnMut(Step) + Send + 'static,
    ) -> Option<(Box<Pending>, Merged)> {
        let (threads, ended, idle) = (self.threads, self.ended.clone(), self.idle.clone());
        let work = move || {
            let ran = catch_unwind(AssertUnwindSafe(|| merge.run(threads, &cancel, tell)));
            let merged = ran.unwrap_or_else(|_| Err(failed("the merge panicked")));
            // without a receiver the process ends
            let _ = ended.send(Heard::Merged(call, merged));
            idle.change(|count| count.saturating_sub(1));
        };
        self.idle.change(|count| count + 1);
        match std::thread::Builder::new().name("merge".into()).spawn(work) {
            Ok(_) => {
                self.pending.insert(call, pending);
                None
            }
            Err(error) => {
                self.idle.change(|count| count.saturating_sub(1));
                Some((pending, Err(failed(&format!("there is no thread for the merge: {error}")))))
            }
        }
    }

    /// What a merge that is through was for.
    pub(super) fn ended(&mut self, call: Call) -> Option<Box<Pending>> {
        self.pending.remove(&call)
    }

    /// Waits until none is under way, at most so long.
    pub(super) fn wait_idle(&self, patience: Duration) -> bool {
        self.idle.wait(patience)
    }
}

fn failed(message: &str) -> CopyError {
    CopyError::Failed(Failure::Work { error: ErrorBody::new(ErrorCode::Internal, message) })
}
