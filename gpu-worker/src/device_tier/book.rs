//! Notes about the copies on a device: plain data. Times are those of the tier's own clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use residency::{
    Departure, Departures, KeepAlive, Said, Why,
    policy::{
        Candidate,
        bandwidth::{Bandwidth, ReadFrom},
        reuse::Reuse,
    },
};
use shared::ids::{ComponentId, JobId, ModelId};

use super::unix_ms;
use crate::runner::DeviceResident;

/// The copy to the device in the measure of speeds, which tells disks apart by number.
const COPYING: u64 = 0;

/// What is noted of one copy.
#[derive(Debug, Clone)]
pub(super) struct Note {
    /// When the copy became resident: another copy of the component is another note.
    since: DateTime<Utc>,
    /// The models that were loaded and need it.
    pub(super) models: BTreeSet<ModelId>,
    /// Who uses it now, by number of the lease.
    pub(super) leases: BTreeMap<u64, String>,
    /// It is being taken off: nobody may lease it any more.
    pub(super) leaving: bool,
    /// The operator's keep.
    pub(super) protected: Said<bool>,
    /// How long it stays after its last use.
    pub(super) keep_alive: Said<Option<KeepAlive>>,
    /// When it was loaded, and when it was last taken or let go.
    loaded: Duration,
    used: Duration,
    pub(super) used_at: DateTime<Utc>,
    /// Uses of it, the first included.
    pub(super) uses: u64,
    /// What its reload would read from which disk.
    read_from: Vec<ReadFrom>,
    /// Of a variant: how long making it took, which is what having it back takes.
    made_in: Option<Duration>,
    /// The job that copied it.
    brought_by: Option<JobId>,
}

impl Note {
    fn of(copy: &DeviceResident, now: Duration) -> Self {
        Self {
            since: copy.since,
            models: BTreeSet::new(),
            leases: BTreeMap::new(),
            leaving: false,
            protected: Said::default(),
            keep_alive: Said::default(),
            loaded: now,
            used: now,
            used_at: copy.last_used,
            uses: 0,
            read_from: Vec::new(),
            made_in: None,
            brought_by: None,
        }
    }

    /// When its keep-alive ends; none while it is used or kept or has no end.
    pub(super) fn expires(&self) -> Option<Duration> {
        match self.keep_alive.value {
            Some(KeepAlive::For(span)) if self.leases.is_empty() && !self.protected.value && !self.leaving => {
                self.used.checked_add(span)
            }
            _ => None,
        }
    }
}

/// Why a copy stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// So many use it.
    Leased(usize),
    /// The operator's keep.
    Protected,
    /// Something else takes it off already.
    Leaving,
}

/// The notes by the id that a component is held under, and what was learned of all.
#[derive(Debug, Default)]
pub(super) struct Book {
    notes: BTreeMap<ComponentId, Note>,
    reuse: Reuse,
    copying: Bandwidth,
    next_lease: u64,
    /// Who copies components to the device, in the order of asking: there are no notes of their copies yet.
    bringing: Vec<(ComponentId, JobId)>,
    departures: Departures,
    /// Of copies that are on their way off: how often the runner had died when they began to leave.
    departing: BTreeMap<ComponentId, u64>,
    /// Names of programs that hold a copy at its runner, which counts them, by number and with what they hold.
    programs: BTreeMap<u64, (ComponentId, String)>,
}

impl Book {
    /// The note of this copy, if there is one.
    pub(super) fn of(&self, copy: &DeviceResident) -> Option<&Note> {
        self.notes.get(&copy.component).filter(|note| note.since == copy.since)
    }

    /// The note of this copy; a fresh one where there was none or one of an earlier copy.
    pub(super) fn note(&mut self, copy: &DeviceResident, now: Duration) -> &mut Note {
        let note = self.notes.entry(copy.component).or_insert_with(|| Note::of(copy, now));
        if note.since != copy.since {
            *note = Note::of(copy, now);
        }
        note
    }

    /// A use of a copy begins; none when it is on its way off.
    pub(super) fn lease(&mut self, copy: &DeviceResident, holder: &str, now: Duration) -> Option<u64> {
        if self.of(copy).is_some_and(|note| note.leaving) {
            return None;
        }
        self.next_lease += 1;
        let lease = self.next_lease;
        let note = self.note(copy, now);
        note.leases.insert(lease, holder.to_owned());
        (note.used, note.used_at) = (now, Utc::now());
        note.uses += 1;
        self.reuse.touch(&copy.component.to_string().into(), now);
        Some(lease)
    }

    /// A use ends.
    pub(super) fn release(&mut self, component: ComponentId, lease: u64, now: Duration) {
        if let Some(note) = self.notes.get_mut(&component).filter(|note| note.leases.contains_key(&lease)) {
            note.leases.remove(&lease);
            (note.used, note.used_at) = (now, Utc::now());
        }
    }

    /// A program holds a copy at the runner. It is no lease: the runner has it.
    pub(super) fn attached(&mut self, component: ComponentId, program: &str, now: Duration) -> u64 {
        self.next_lease += 1;
        self.programs.insert(self.next_lease, (component, program.to_owned()));
        if let Some(note) = self.notes.get_mut(&component) {
            (note.used, note.used_at) = (now, Utc::now());
            note.uses += 1;
            self.reuse.touch(&component.to_string().into(), now);
        }
        self.next_lease
    }

    /// It does not any more, which ends a use.
    pub(super) fn detached(&mut self, number: u64, now: Duration) {
        let held = self.programs.remove(&number);
        if let Some(note) = held.and_then(|(component, _)| self.notes.get_mut(&component)) {
            (note.used, note.used_at) = (now, Utc::now());
        }
    }

    /// Who uses a copy: jobs, then programs.
    pub(super) fn holders(&self, copy: &DeviceResident) -> Vec<String> {
        let jobs = self.of(copy).into_iter().flat_map(|note| note.leases.values());
        let programs = self.programs.values().filter(|(component, _)| *component == copy.component && copy.leases > 0);
        jobs.chain(programs.map(|(_, program)| program)).cloned().collect()
    }

    /// The job has copied it.
    pub(super) fn brought(&mut self, copy: &DeviceResident, job: JobId, now: Duration) {
        self.note(copy, now).brought_by = Some(job);
    }

    /// A copy took so long to arrive, and its bytes came from there.
    pub(super) fn copied(&mut self, copy: &DeviceResident, from: Vec<ReadFrom>, took: Duration, now: Duration) {
        self.copying.observe(&[ReadFrom { device: COPYING, bytes: copy.bytes }], took);
        self.note(copy, now).read_from = from;
    }

    /// A variant was made in so long.
    pub(super) fn made(&mut self, copy: &DeviceResident, took: Duration, now: Duration) {
        self.note(copy, now).made_in = Some(took);
    }

    /// Seconds that a copy of so many bytes to the device takes, by those before.
    pub(super) fn copy_seconds(&self, bytes: u64) -> f64 {
        self.copying.seconds(&[ReadFrom { device: COPYING, bytes }])
    }

    /// A job copies a component to the device.
    pub(super) fn brings(&mut self, component: ComponentId, job: JobId) {
        self.bringing.push((component, job));
    }

    /// It does not any more: the copy has its note, or there is none.
    pub(super) fn brings_no_more(&mut self, component: ComponentId, job: JobId) {
        if let Some(at) = self.bringing.iter().position(|one| *one == (component, job)) {
            self.bringing.remove(at);
        }
    }

    /// The job that copied it; of one that arrived just now the first that wanted to.
    pub(super) fn brought_by(&self, copy: &DeviceResident) -> Option<JobId> {
        let asked = || self.bringing.iter().find(|(component, _)| *component == copy.component).map(|(_, job)| *job);
        self.of(copy).and_then(|note| note.brought_by).or_else(asked)
    }

    /// A copy begins to leave, after so many deaths of the runner.
    pub(super) fn departs(&mut self, component: ComponentId, why: Why, deaths: u64) {
        self.departing.insert(component, deaths);
        self.departures.leaves(&component.to_string().into(), why, unix_ms());
    }

    /// It is gone. What went with the runner went for no reason of ours.
    pub(super) fn departed(&mut self, component: ComponentId, deaths: u64) {
        if self.departing.remove(&component).is_some_and(|before| before != deaths) {
            self.departures.stays(&component.to_string());
        }
    }

    /// It stays after all, or went for another reason.
    pub(super) fn stays(&mut self, component: ComponentId) {
        self.departing.remove(&component);
        self.departures.stays(&component.to_string());
    }

    /// Why copies left or are about to, where the runner has died so often by now.
    pub(super) fn departures(&self, deaths: u64) -> Vec<Departure> {
        let lost = |one: &Departure| {
            let begun = one.key.parse().ok().and_then(|component: ComponentId| self.departing.get(&component));
            begun.is_some_and(|before| *before != deaths)
        };
        self.departures.all().into_iter().filter(|one| !lost(one)).collect()
    }

    /// A departure was told.
    pub(super) fn told(&mut self, key: &str, unix_ms: u64) {
        self.departures.told(key, unix_ms);
    }

    /// Begins to take a copy off, unless it has to stay.
    pub(super) fn leave(
        &mut self,
        copy: &DeviceResident,
        protected_too: bool,
        (why, deaths): (&Why, u64),
        now: Duration,
    ) -> Result<(), Stays> {
        let note = self.note(copy, now);
        match note {
            note if note.leaving => Err(Stays::Leaving),
            note if !note.leases.is_empty() || copy.leases > 0 => {
                Err(Stays::Leased(note.leases.len() + copy.leases as usize))
            }
            note if note.protected.value && !protected_too => Err(Stays::Protected),
            note => {
                note.leaving = true;
                self.departs(copy.component, why.clone(), deaths);
                Ok(())
            }
        }
    }

    /// A copy is gone, or stayed after all.
    pub(super) fn left(&mut self, component: ComponentId, (gone, deaths): (bool, u64), now: Duration) {
        if gone {
            self.departed(component, deaths);
            self.notes.remove(&component);
            self.reuse.evicted(&component.to_string(), now);
            return;
        }
        self.stays(component);
        if let Some(note) = self.notes.get_mut(&component) {
            note.leaving = false;
        }
    }

    /// Drops the notes of copies that are not on the device any more.
    pub(super) fn prune(&mut self, copies: &[DeviceResident]) {
        self.notes.retain(|component, note| {
            copies.iter().any(|copy| copy.component == *component && copy.since == note.since)
        });
    }

    pub(super) fn forget_model(&mut self, model: ModelId, component: ComponentId) {
        if let Some(note) = self.notes.get_mut(&component) {
            note.models.remove(&model);
        }
    }

    /// What people said and models need of one copy counts for another one of the same component.
    pub(super) fn hand_over(&mut self, from: &DeviceResident, to: &DeviceResident, now: Duration) {
        let Some(note) = self.of(from).cloned() else { return };
        let there = self.note(to, now);
        there.models.extend(note.models);
        if note.protected.value {
            there.protected = note.protected;
        }
        if note.keep_alive.value.is_some() {
            there.keep_alive = note.keep_alive;
        }
    }

    /// A copy as the policy sees it. `reading` tells how long its bytes take to come into RAM, where they may be already.
    /// What was not noted yet is being loaded and counts as in use.
    pub(super) fn candidate(
        &self,
        copy: &DeviceResident,
        reading: impl Fn(&[ReadFrom]) -> f64,
        now: Duration,
    ) -> Candidate {
        let (key, note) = (copy.component.to_string(), self.of(copy));
        let copying = self.copy_seconds(copy.bytes);
        let made_in = note.and_then(|note| note.made_in).map(|took| took.as_secs_f64());
        Candidate {
            bytes: copy.alone_bytes,
            shared: copy.shared.clone(),
            last_used: note.map_or(now, |note| note.used),
            loaded_at: note.map_or(now, |note| note.loaded),
            hits: note.map_or(0, |note| note.uses),
            reload_seconds: made_in.unwrap_or_else(|| copying + note.map_or(0.0, |note| reading(&note.read_from))),
            reuses_per_hour: self.reuse.per_hour(&key, now),
            reused: self.reuse.was_reused(&key),
            holders: copy.leases.saturating_add(
                note.map_or(1, |note| {
                    u32::try_from(note.leases.len()).unwrap_or(u32::MAX).max(u32::from(note.leaving))
                }),
            ),
            protected: note.is_some_and(|note| note.protected.value),
            key: key.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn copy(component: ComponentId, since: DateTime<Utc>) -> DeviceResident {
        DeviceResident {
            component,
            digest: "d".into(),
            bytes: 1 << 30,
            alone_bytes: 1 << 30,
            shared: Vec::new(),
            since,
            last_used: since,
            uses: 1,
            leases: 0,
            variant: None,
        }
    }

    fn asked() -> Why {
        residency::Reason::Requested.into()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_note_belongs_to_one_copy_and_is_handed_over_to_its_twin() {
        let [a, b] = std::array::from_fn(|_| ComponentId::generate());
        let (now, model) = (Utc::now(), ModelId::generate());
        let mut book = Book::default();
        let note = book.note(&copy(a, now), at(0));
        note.models.insert(model);
        note.protected = Said::now(true);
        let later = copy(a, now + TimeDelta::seconds(1));
        assert!(book.of(&later).is_none(), "the runner died and the component was loaded again");

        book.hand_over(&copy(a, now), &copy(b, now), at(1));
        assert!(book.of(&copy(b, now)).is_some_and(|note| note.models.contains(&model) && note.protected.value));
        assert!(book.note(&later, at(1)).models.is_empty());
        book.forget_model(model, b);
        assert!(book.of(&copy(b, now)).is_some_and(|note| note.models.is_empty()));
        book.prune(&[copy(b, now)]);
        assert_eq!(book.notes.keys().collect::<Vec<_>>(), [&b]);
    }

    #[test]
    fn what_is_used_or_kept_does_not_leave_and_what_leaves_is_not_lent() {
        let one = copy(ComponentId::generate(), Utc::now());
        let mut book = Book::default();
        let lease = book.lease(&one, "job", at(0)).unwrap();
        assert_eq!(book.leave(&one, true, (&asked(), 0), at(1)), Err(Stays::Leased(1)));
        book.release(one.component, lease, at(2));
        let attached = DeviceResident { leases: 2, ..one.clone() };
        assert_eq!(
            book.leave(&attached, true, (&asked(), 0), at(2)),
            Err(Stays::Leased(2)),
            "programs hold it at the runner"
        );
        let (program, job) =
            (book.attached(one.component, "a program", at(2)), book.lease(&one, "job 7", at(2)).unwrap());
        assert_eq!(book.holders(&attached), ["job 7", "a program"]);
        book.detached(program, at(2));
        book.release(one.component, job, at(2));
        assert!(book.holders(&attached).is_empty());
        assert_eq!(book.candidate(&attached, |_| 0.0, at(2)).holders, 2);
        book.note(&one, at(2)).protected = Said::now(true);
        assert_eq!(book.leave(&one, false, (&asked(), 0), at(3)), Err(Stays::Protected));
        assert_eq!(book.leave(&one, true, (&asked(), 0), at(3)), Ok(()));
        assert_eq!(book.leave(&one, true, (&asked(), 0), at(3)), Err(Stays::Leaving));
        assert_eq!(book.lease(&one, "late", at(3)), None);
        assert_eq!(book.departures(0).len(), 1, "why it is not there any more is known before it is gone");
        book.left(one.component, (false, 0), at(4));
        assert!(book.lease(&one, "again", at(4)).is_some() && book.departures(0).is_empty());
    }

    #[test]
    fn what_went_with_the_runner_went_for_no_reason_of_ours() {
        let one = copy(ComponentId::generate(), Utc::now());
        let mut book = Book::default();
        assert_eq!(book.leave(&one, true, (&asked(), 3), at(0)), Ok(()));
        assert_eq!((book.departures(3).len(), book.departures(4).len()), (1, 0), "it died meanwhile");
        book.left(one.component, (true, 4), at(1));
        assert!(book.departures(4).is_empty());
        assert_eq!(book.leave(&one, true, (&asked(), 4), at(2)), Ok(()));
        book.left(one.component, (true, 4), at(3));
        assert_eq!(book.departures(5).len(), 1, "it was gone before the runner died");
        assert!(book.departing.is_empty());
    }

    #[test]
    fn a_copy_is_brought_by_who_copied_it_and_the_next_one_by_somebody_else() {
        let (now, [first, second]) = (Utc::now(), std::array::from_fn(|_| JobId::generate()));
        let one = copy(ComponentId::generate(), now);
        let mut book = Book::default();
        book.brings(one.component, first);
        book.brings(one.component, second);
        assert_eq!(book.brought_by(&one), Some(first));
        book.brings_no_more(one.component, first);
        assert_eq!(book.brought_by(&one), Some(second), "the first one failed");
        book.brought(&one, second, at(0));
        book.brings_no_more(one.component, second);
        assert_eq!(book.brought_by(&one), Some(second));
        let later = copy(one.component, now + TimeDelta::seconds(1));
        assert_eq!(book.brought_by(&later), None);
        book.prune(&[]);
        assert!(book.notes.is_empty() && book.bringing.is_empty());
    }

    #[test]
    fn a_reload_costs_the_copy_and_what_has_to_be_read_first() {
        let one = copy(ComponentId::generate(), Utc::now());
        let mut book = Book::default();
        assert_eq!(book.candidate(&one, |_| 5.0, at(0)).holders, 1, "nobody noted it yet: it is being loaded");
        book.copied(&one, vec![ReadFrom { device: 7, bytes: one.bytes }], Duration::from_secs(2), at(0));
        let in_ram = book.candidate(&one, |_| 0.0, at(9));
        assert!((in_ram.reload_seconds - 2.0).abs() < 1e-9 && in_ram.holders == 0, "{in_ram:?}");
        let on_disk = book.candidate(&one, |from| from[0].bytes as f64 / 1e9, at(9));
        assert!(on_disk.reload_seconds > 3.0, "{on_disk:?}");
        book.made(&one, Duration::from_secs(7), at(9));
        let made = book.candidate(&one, |_| 5.0, at(9));
        assert!((made.reload_seconds - 7.0).abs() < 1e-9, "a variant is made again: {made:?}");
    }

    #[test]
    fn keep_alive_counts_from_the_end_of_the_last_use() {
        let one = copy(ComponentId::generate(), Utc::now());
        let mut book = Book::default();
        let lease = book.lease(&one, "job", at(0)).unwrap();
        book.note(&one, at(0)).keep_alive = Said::now(Some(KeepAlive::For(at(10))));
        assert_eq!(book.of(&one).unwrap().expires(), None);
        book.release(one.component, lease, at(5));
        assert_eq!(book.of(&one).unwrap().expires(), Some(at(15)));
        let (uses, program) = (book.of(&one).unwrap().uses, book.attached(one.component, "a program", at(6)));
        assert_eq!(book.of(&one).unwrap().uses, uses + 1);
        book.detached(program, at(60));
        assert_eq!(book.of(&one).unwrap().expires(), Some(at(70)), "a program's use is one");
    }
}
