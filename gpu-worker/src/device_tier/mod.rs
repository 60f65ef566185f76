//! What the agent knows of the components on a device beyond their bytes: which models need them, who uses them, what was
//! said about keeping them, and what their reload would cost. What leaves a device is chosen by the same policy as in RAM.
//!
//! The bytes are the runner's; this book is kept beside them and dies with them. A note belongs to one copy: once the copy
//! was replaced or went away with its runner, the note says nothing any more. What is noted here is published with the
//! bytes, so that the database has it as well.
//!
//! [`evict`] takes copies off: plan by the policy, mark as leaving, have the runner free it, keep the decision. `lend` does so with
//! those that the runner takes off for what it makes in their memory.

mod book;
pub mod evict;
mod lend;
mod view;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use book::Book;
use residency::{
    Decision, Decisions, Departure, Draft, KeepAlive, Kept, Said, Why,
    policy::{Rules, bandwidth::ReadFrom},
};
use shared::{
    ids::{ComponentId, JobId, ModelId},
    job::Keep,
};
use tokio::sync::watch;

pub(crate) use lend::lend;
pub use view::{Noted, Standings, candidates, is_in_ram, standings};

use crate::{context::Device, runner::DeviceResident};

/// The book of one device.
#[derive(Debug)]
pub struct DeviceTier {
    rules: Rules,
    book: Mutex<Book>,
    decisions: Mutex<Decisions>,
    /// Everything that frees memory by a plan holds it, so that two never plan with the same bytes.
    room: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    started: Instant,
}

/// Use of a copy on a device: while it lives, the copy stays.
#[derive(Debug)]
pub struct DeviceLease {
    tier: Arc<DeviceTier>,
    component: ComponentId,
    lease: u64,
}

impl Drop for DeviceLease {
    fn drop(&mut self) {
        self.tier.book().release(self.component, self.lease, self.tier.uptime());
        self.tier.bump();
    }
}

/// The name of a program that holds a copy: shown while this lives.
#[derive(Debug)]
pub struct NamedProgram {
    tier: Arc<DeviceTier>,
    number: u64,
}

impl Drop for NamedProgram {
    fn drop(&mut self) {
        let now = self.tier.uptime();
        self.tier.book().detached(self.number, now);
        self.tier.bump();
    }
}

/// A component that a job copies to the device: while this lives, a copy without a note counts as brought by it.
#[derive(Debug)]
pub struct Bringing {
    tier: Arc<DeviceTier>,
    component: ComponentId,
    job: JobId,
}

impl Bringing {
    /// The component.
    pub fn component(&self) -> ComponentId {
        self.component
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        self.tier.book().brings_no_more(self.component, self.job);
    }
}

/// A copy that leaves in another way than by [`evict`]: it stays, or went for another reason, unless it is said to be gone.
#[derive(Debug)]
pub struct Departing<'d> {
    device: &'d Device,
    component: ComponentId,
}

impl<'d> Departing<'d> {
    /// It begins to leave.
    pub fn begin(device: &'d Device, component: ComponentId, why: Why) -> Self {
        let deaths = device.deaths();
        device.tier.book().departs(component, why, deaths);
        Self { device, component }
    }

    /// It is gone.
    pub fn gone(self) {
        let deaths = self.device.deaths();
        self.device.tier.book().departed(self.component, deaths);
        // what remains to be done is done
        std::mem::forget(self);
    }
}

impl Drop for Departing<'_> {
    fn drop(&mut self) {
        self.device.tier.book().stays(self.component);
    }
}

impl DeviceTier {
    /// An empty device.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            book: Mutex::default(),
            decisions: Mutex::default(),
            room: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            started: Instant::now(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decisions(&self) -> MutexGuard<'_, Decisions> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// Time since the tier's start, on the clock of its decisions.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Changes with every note; the value grows.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A lease on this copy; none while it is being taken off.
    pub fn lease(self: &Arc<Self>, copy: &DeviceResident, holder: &str) -> Option<DeviceLease> {
        let lease = self.book().lease(copy, holder, self.uptime())?;
        self.bump();
        Some(DeviceLease { tier: self.clone(), component: copy.component, lease })
    }

    /// Names a program that the runner has given a copy to.
    pub fn name(self: &Arc<Self>, component: ComponentId, program: &str) -> NamedProgram {
        let number = self.book().attached(component, program, self.uptime());
        self.bump();
        NamedProgram { tier: self.clone(), number }
    }

    /// A copy arrived by this job: what it took, and what its reload would read.
    pub fn copied(&self, copy: &DeviceResident, job: JobId, from: Vec<ReadFrom>, took: Duration) {
        let (mut book, now) = (self.book(), self.uptime());
        book.brought(copy, job, now);
        book.copied(copy, from, took, now);
    }

    /// A variant was made, which took so long.
    pub fn made(&self, copy: &DeviceResident, took: Duration) {
        self.book().made(copy, took, self.uptime());
    }

    /// Seconds that a copy of so many bytes to the device takes, by those before.
    pub fn copy_seconds(&self, bytes: u64) -> f64 {
        self.book().copy_seconds(bytes)
    }

    /// A model was loaded, needs this copy, and its request said something about keeping it. A keep-alive of zero means RAM
    /// alone: what is on the device was put there to be used.
    pub fn needs(&self, model: ModelId, copy: &DeviceResident, keep: Keep) {
        let mut book = self.book();
        let note = book.note(copy, self.uptime());
        note.models.insert(model);
        if keep.protect {
            note.protected = Said::now(true);
        }
        if let Some(shared::job::KeepAlive(span)) = keep.keep_alive.filter(|keep| keep.0 != Some(Duration::ZERO)) {
            note.keep_alive = Said::now(Some(span.map_or(KeepAlive::Forever, KeepAlive::For)));
        }
        drop(book);
        self.bump();
    }

    /// A model does not need a component any more.
    pub fn needs_no_more(&self, model: ModelId, component: ComponentId) {
        self.book().forget_model(model, component);
        self.bump();
    }

    /// What an operator says about a copy; absent parts stay as they are.
    pub fn say(&self, copy: &DeviceResident, protect: Option<bool>, keep_alive: Option<KeepAlive>) {
        let mut book = self.book();
        let note = book.note(copy, self.uptime());
        note.protected = protect.map_or(note.protected, Said::now);
        note.keep_alive = keep_alive.map_or(note.keep_alive, |keep| Said::now(Some(keep)));
        drop(book);
        self.bump();
    }

    /// What is said about keeping a copy.
    pub fn kept(&self, copy: &DeviceResident) -> Kept {
        let kept = |note: &book::Note| Kept { protected: note.protected, keep_alive: note.keep_alive };
        self.book().of(copy).map(kept).unwrap_or_default()
    }

    /// Just this is said about keeping a copy from here on, as if nothing had been said since it was.
    pub fn say_exactly(&self, copy: &DeviceResident, Kept { protected, keep_alive }: Kept) {
        let mut book = self.book();
        let note = book.note(copy, self.uptime());
        (note.protected, note.keep_alive) = (protected, keep_alive);
        drop(book);
        self.bump();
    }

    /// What is noted of one copy counts for another: both hold the same component, and the first is given back.
    pub fn hand_over(&self, from: &DeviceResident, to: &DeviceResident) {
        self.book().hand_over(from, to, self.uptime());
    }

    /// Forgets what is noted of copies that are not among those on the device now.
    pub fn prune(&self, on_device: impl Fn() -> Vec<DeviceResident>) {
        // looked at under the lock: a copy that is noted was there before, and is there unless it has gone since
        let mut book = self.book();
        book.prune(&on_device());
    }

    /// Decisions after `seq`, oldest first; the last few hundred are kept.
    pub fn decisions_after(&self, seq: u64) -> Vec<Decision> {
        self.decisions().after(seq)
    }

    /// A job begins to copy a component to the device.
    pub fn brings(self: &Arc<Self>, component: ComponentId, job: JobId) -> Bringing {
        self.book().brings(component, job);
        Bringing { tier: self.clone(), component, job }
    }

    /// The copies on their way off, or off, that were not told yet; `deaths` are the runner's by now.
    pub fn departures(&self, deaths: u64) -> Vec<Departure> {
        self.book().departures(deaths)
    }

    /// A departure was told.
    pub fn departure_told(&self, key: &str, unix_ms: u64) {
        self.book().told(key, unix_ms);
    }

    fn record(&self, draft: Draft) {
        self.decisions().record(draft, self.uptime(), unix_ms());
        self.bump();
    }
}

/// Now, on the wall clock.
fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}
