//! How far a component's way into RAM is for one job, whoever reads it there, and the word for what a load does.

use std::{
    pin::pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use residency::{Phase, ProgressSnapshot};

/// How often a load is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// One component's bytes that have arrived in RAM.
#[derive(Debug)]
pub(super) struct Landed {
    bytes: AtomicU64,
    /// Another content of the component, whose load runs first, may have more.
    most: u64,
    /// Of the load that brings it, while one runs.
    phase: Mutex<Option<Phase>>,
}

impl Landed {
    /// None so far, of a component of so many.
    pub(super) fn new(most: u64) -> Self {
        Self { bytes: AtomicU64::new(0), most, phase: Mutex::default() }
    }

    /// So many, unless it were more before.
    pub(super) fn reach(&self, bytes: u64) {
        self.bytes.fetch_max(bytes.min(self.most), Ordering::AcqRel);
    }

    /// So many so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    fn saw(&self, load: Option<ProgressSnapshot>) {
        self.is(load.map(|load| load.phase));
        self.reach(load.map_or(0, |load| load.bytes_done));
    }

    fn is(&self, phase: Option<Phase>) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// It was refused for want of room, which others may leave.
    pub(super) fn waits_for_room(&self) {
        self.is(Some(Phase::MakingRoom));
    }

    fn phase(&self) -> Option<Phase> {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `acquired` while it looks at the load that it waits for, which may be another job's.
    pub(super) async fn watch<T>(
        &self,
        acquired: impl Future<Output = T>,
        load: impl Fn() -> Option<ProgressSnapshot>,
    ) -> T {
        self.is(Some(Phase::Reading));
        let mut acquired = pin!(acquired);
        loop {
            tokio::select! {
                biased;
                got = &mut acquired => {
                    self.saw(None);
                    return got;
                }
                () = tokio::time::sleep(SAMPLE) => self.saw(load()),
            }
        }
    }
}

/// Bytes of them all.
pub(super) fn bytes(all: &[Landed]) -> u64 {
    all.iter().map(Landed::bytes).sum()
}

/// What is done about them: the first of what moves bytes, then of what only waits; none where none is on its way.
pub(super) fn phase(all: &[Landed]) -> Option<&'static str> {
    let phases: Vec<Phase> = all.iter().filter_map(Landed::phase).collect();
    let does = |wanted: &[Phase]| phases.iter().any(|phase| wanted.contains(phase));
    let first = match () {
        () if does(&[Phase::Reading]) => Phase::Reading,
        () if does(&[Phase::Verifying]) => Phase::Verifying,
        () if does(&[Phase::MakingRoom, Phase::Waiting]) => Phase::MakingRoom,
        () => return None,
    };
    Some(first.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(phase: Phase, bytes_done: u64) -> Option<ProgressSnapshot> {
        Some(ProgressSnapshot { phase, bytes_done, bytes_total: 10 })
    }

    #[test]
    fn bytes_only_grow_and_what_moves_them_is_told_first() {
        let all = [Landed::new(10), Landed::new(10)];
        assert_eq!((bytes(&all), phase(&all)), (0, None));
        all[0].saw(load(Phase::MakingRoom, 0));
        assert_eq!(phase(&all), Some("making_room"));
        all[1].saw(load(Phase::Verifying, 4));
        assert_eq!(phase(&all), Some("verifying"));
        all[0].saw(load(Phase::Reading, 3));
        assert_eq!((bytes(&all), phase(&all)), (7, Some("reading")));
        all[0].saw(load(Phase::Waiting, 0));
        all[1].saw(None);
        assert_eq!((bytes(&all), phase(&all)), (7, Some("making_room")));
        all[0].saw(load(Phase::Waiting, 12));
        assert_eq!(bytes(&all), 14, "no more than there are");
    }
}
