//! Whose turn it is among the components of one job: one after the other on each disk, disks beside each other, and RAM for
//! one at a time where there is no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex as Short, MutexGuard as ShortGuard, PoisonError},
};

use tokio::sync::{Mutex, MutexGuard, RwLock, Semaphore, SemaphorePermit, watch};

use crate::{error::WorkError, progress::Progress};

/// Components from one disk that are on their way at a time, where there is room for two: one that is copied to a device, and
/// one that is read. Those that were in RAM before would else all be held at once, and what they leave may be too little for
/// the next.
const AHEAD: usize = 2;

/// The turns of a job's components. Who takes a turn of several kinds takes them in the order of the methods here, and disks in
/// the order of their numbers, so that nobody waits in a circle.
pub(super) struct Turns<'a> {
    disks: BTreeMap<u64, Disk>,
    /// Shared by those that ask for room in RAM, and had alone by one that was refused while others may have had it.
    room: RwLock<()>,
    /// Components that are held in RAM for the job.
    held: watch::Sender<usize>,
    progress: &'a Progress,
    /// Kinds that are read now.
    reading: Short<Vec<String>>,
}

#[derive(Debug)]
struct Disk {
    ahead: Semaphore,
    reading: Mutex<()>,
}

/// A component is read.
struct Reading<'a> {
    turns: &'a Turns<'a>,
    kind: &'a str,
}

/// Counts a component among those that are held in RAM.
pub(super) struct Held(watch::Sender<usize>);

impl<'a> Turns<'a> {
    /// For components that lie on these disks.
    pub(super) fn new(disks: impl IntoIterator<Item = u64>, progress: &'a Progress) -> Self {
        let disk = |number| (number, Disk { ahead: Semaphore::new(AHEAD), reading: Mutex::new(()) });
        Self {
            disks: disks.into_iter().map(disk).collect(),
            room: RwLock::new(()),
            held: watch::Sender::new(0),
            progress,
            reading: Short::default(),
        }
    }

    fn of(&self, disks: &BTreeSet<u64>) -> impl Iterator<Item = &Disk> {
        self.disks.iter().filter(|(number, _)| disks.contains(number)).map(|(_, disk)| disk)
    }

    /// To be on the way, from before it is read until a device has it.
    pub(super) async fn under_way(&self, disks: &BTreeSet<u64>) -> Vec<SemaphorePermit<'_>> {
        let mut permits = Vec::new();
        for disk in self.of(disks) {
            // nobody closes it
            permits.extend(disk.ahead.acquire().await);
        }
        permits
    }

    /// To be read; as long as what is returned lives.
    pub(super) async fn to_read(&self, disks: &BTreeSet<u64>) -> Vec<MutexGuard<'_, ()>> {
        let mut mine = Vec::new();
        for disk in self.of(disks) {
            mine.push(disk.reading.lock().await);
        }
        mine
    }

    /// Says, as long as what is returned lives, that a component of this kind is read.
    fn reads(&'a self, kind: &'a str) -> Reading<'a> {
        self.tell(|kinds| kinds.push(kind.to_owned()));
        Reading { turns: self, kind }
    }

    /// Says which kinds are read.
    fn tell(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut kinds: ShortGuard<'_, _> = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut kinds);
        if !kinds.is_empty() {
            self.progress.detail(&kinds.join(", "));
        }
    }

    /// What `take` gets for a component of this kind, which needs room in RAM. Where it finds none beside what the job reads and
    /// holds meanwhile, it waits for that, and is refused only when it found none alone.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) async fn with_room<T, F>(&self, kind: &str, mut take: impl FnMut() -> F) -> Result<T, WorkError>
    where
        F: Future<Output = Result<T, WorkError>>,
    {
        let mut take = async || {
            let _reading = self.reads(kind);
            take().await
        };
        let mut held = self.held.subscribe();
        {
            let _beside = self.room.read().await;
            let before = *held.borrow();
            match take().await {
                Err(error) if error.is_shortage_of_ram() && (before > 0 || self.disks.len() > 1) => {}
                got => return got,
            }
        }
        let _alone = self.room.write().await;
        loop {
            let before = *held.borrow_and_update();
            match take().await {
                Err(error) if before > 0 && error.is_shortage_of_ram() => {
                    if held.wait_for(|now| *now < before).await.is_err() {
                        return Err(error);
                    }
                }
                got => return got,
            }
        }
    }

    /// A component is held in RAM for the job as long as this lives.
    pub(super) fn hold(&self) -> Held {
        self.held.send_modify(|count| *count += 1);
        Held(self.held.clone())
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let kind = self.kind;
        self.turns.tell(|kinds| {
            if let Some(at) = kinds.iter().position(|reading| reading == kind) {
                kinds.remove(at);
            }
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::join_all;
    use proptest::prelude::*;
    use residency::{ResidencyError, Shortage};

    use super::*;

    const CAPACITY: u64 = 10;

    /// RAM with room for ten, and who reads from which disk.
    #[derive(Debug, Default)]
    struct Seen {
        used: u64,
        reading: BTreeMap<u64, usize>,
        under_way: BTreeMap<u64, usize>,
        /// Most that read at a time.
        most: usize,
    }

    #[derive(Debug, Clone)]
    struct Part {
        disks: BTreeSet<u64>,
        bytes: u64,
        /// Times that others go on while it is read, and while it is copied.
        pauses: (usize, usize),
    }

    fn part() -> impl Strategy<Value = Part> {
        let disks = proptest::collection::btree_set(0_u64..3, 1..3);
        (disks, 1..=CAPACITY, (0_usize..6, 0_usize..6)).prop_map(|(disks, bytes, pauses)| Part { disks, bytes, pauses })
    }

    async fn pause(times: usize) {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }

    fn shortage(bytes: u64, used: u64) -> WorkError {
        let available_bytes = CAPACITY - used;
        let capacity_bytes = CAPACITY;
        ResidencyError::NoRoom(Shortage { needed_bytes: bytes, available_bytes, would_free_bytes: 0, capacity_bytes })
            .into()
    }

    async fn taken(seen: &Short<Seen>, part: &Part) -> Result<(), WorkError> {
        {
            let mut now = seen.lock().unwrap();
            if now.used + part.bytes > CAPACITY {
                return Err(shortage(part.bytes, now.used));
            }
            now.used += part.bytes;
            part.disks.iter().for_each(|disk| *now.reading.entry(*disk).or_default() += 1);
            now.most = now.most.max(now.reading.values().sum());
            assert!(now.reading.values().all(|reading| *reading <= 1), "two read from one disk: {now:?}");
        }
        pause(part.pauses.0).await;
        let mut now = seen.lock().unwrap();
        part.disks.iter().for_each(|disk| *now.reading.get_mut(disk).unwrap() -= 1);
        Ok(())
    }

    async fn brought(seen: &Short<Seen>, part: &Part, turns: &Turns<'_>) -> Result<(), WorkError> {
        let _under_way = turns.under_way(&part.disks).await;
        {
            let mut now = seen.lock().unwrap();
            part.disks.iter().for_each(|disk| *now.under_way.entry(*disk).or_default() += 1);
            assert!(now.under_way.values().all(|ahead| *ahead <= AHEAD), "{now:?}");
        }
        let turn = turns.to_read(&part.disks).await;
        turns.with_room("unet", || taken(seen, part)).await?;
        let _held = turns.hold();
        drop(turn);
        pause(part.pauses.1).await;
        let mut now = seen.lock().unwrap();
        now.used -= part.bytes;
        part.disks.iter().for_each(|disk| *now.under_way.get_mut(disk).unwrap() -= 1);
        Ok(())
    }

    /// Where others hold so much of the RAM.
    fn all(parts: &[Part], used: u64) -> (Vec<Result<(), WorkError>>, Seen) {
        let (seen, progress) = (Arc::new(Short::new(Seen { used, ..Seen::default() })), Progress::new());
        let turns = Turns::new(parts.iter().flat_map(|part| part.disks.clone()), &progress);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ended = runtime.block_on(join_all(parts.iter().map(|part| brought(&seen, part, &turns))));
        assert!(turns.reading.lock().unwrap().is_empty());
        drop(turns);
        (ended, Arc::into_inner(seen).unwrap().into_inner().unwrap())
    }

    fn on(disk: u64, bytes: u64) -> Part {
        Part { disks: BTreeSet::from([disk]), bytes, pauses: (3, 3) }
    }

    #[test]
    fn disks_are_read_beside_each_other_where_there_is_room() {
        let (ended, seen) = all(&[on(0, 4), on(0, 2), on(1, 4)], 0);
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        assert_eq!(seen.most, 2);
        let (ended, seen) = all(&[on(0, 6), on(1, 6)], 0);
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        assert_eq!(seen.most, 1, "the second waited for the first");
    }

    #[test]
    fn what_has_no_room_alone_is_refused() {
        for (parts, used) in
            [([on(0, 4), on(1, CAPACITY + 1)], 0), ([on(0, 4), on(1, 8)], 5), ([on(0, 4), on(0, 8)], 5)]
        {
            let (ended, seen) = all(&parts, used);
            assert!(matches!(&ended[..], [Ok(()), Err(WorkError::Residency(ResidencyError::NoRoom(_)))]), "{ended:?}");
            assert_eq!(seen.used, used);
        }
    }

    proptest! {
        /// Whatever has room alone gets it, nobody waits in a circle, and no disk is read twice at a time.
        #[test]
        fn all_that_fit_alone_arrive(parts in proptest::collection::vec(part(), 1..12)) {
            let (ended, seen) = all(&parts, 0);
            prop_assert!(ended.iter().all(Result::is_ok), "{:?}", ended);
            prop_assert_eq!(seen.used, 0);
        }
    }
}
