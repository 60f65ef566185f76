//! The face of the RAM tier: acquire, evict, clear, protect, cancel, snapshot.
//!
//! One short lock guards the table of entries; bytes move and memory is freed outside it. A load runs
//! on a thread of its own and belongs to nobody: callers join it, leave it, or cancel it. Everything
//! that frees memory to make room holds a second lock (`room`), so that two loads never each evict for
//! the same bytes.

mod decisions;
mod departures;
mod evict;
mod flight;
mod keep;
mod lease;
mod said;
mod snapshot;
mod table;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use decisions::{Decision, Decisions, Draft, Reason};
pub use departures::{Departure, Departures, Why};
pub use evict::{ClearReport, FreedBytes};
pub use keep::KeepAlive;
pub use lease::Lease;
pub use said::{Kept, Said};
pub use snapshot::{AGE_BOUNDS_SECONDS, Audit, EntrySnapshot, EvictionCounts, TierSnapshot, TierStats};
use table::{Answer, Table};

use crate::{
    arena::Arenas,
    arrival::Arrival,
    budget::{Budget, BudgetView},
    entry::State,
    error::ResidencyError,
    identity::FileIdentity,
    loader::{Afoot, Disks, Hung},
    policy::{Candidate, Policy, Rules, bandwidth::ReadFrom},
    progress::ProgressSnapshot,
    request::LoadRequest,
};

/// Limits of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierConfig {
    /// Bytes that may be resident.
    pub budget_bytes: u64,
    /// Part of the budget that is never handed out.
    pub headroom_bytes: u64,
    /// How victims are chosen.
    pub policy: Policy,
    /// With `cost`: what was used again and is younger than this goes after everything else.
    pub min_age: Duration,
    /// A load within this time after our own choice took the component out counts as an early reload.
    pub early_reload: Duration,
    /// How long entries stay after their last use when nothing is said about them; none: until the policy takes them.
    pub keep_alive: Option<KeepAlive>,
    /// A load to which no byte comes for this long is given up; zero: never.
    pub io_timeout: Duration,
}

impl TierConfig {
    /// A budget without headroom, the default policy, no expiry.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            headroom_bytes: 0,
            policy: Policy::default(),
            min_age: Duration::from_secs(30),
            early_reload: Duration::from_secs(300),
            keep_alive: None,
            io_timeout: Duration::from_secs(60),
        }
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules { policy: self.policy, min_age: self.min_age }
    }
}

/// The RAM tier of one host. Cheap to clone: clones are the same tier.
#[derive(Debug, Clone)]
pub struct RamTier {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: TierConfig,
    budget: Budget,
    arenas: Arenas,
    disks: Disks,
    hung: Hung,
    table: Mutex<Table>,
    room: Mutex<()>,
    /// Why the budget is cut, while it is.
    cause: Mutex<String>,
    changes: watch::Sender<u64>,
    started: Instant,
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> MutexGuard<'_, ()> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cause(&self) -> String {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that something changed. Called after the change, never before.
    fn bump(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }
}

impl RamTier {
    /// An empty tier.
    pub fn new(config: TierConfig) -> Self {
        let inner = Inner {
            config,
            budget: Budget::new(config.budget_bytes, config.headroom_bytes),
            arenas: Arenas::default(),
            disks: Disks::default(),
            hung: Hung::default(),
            table: Mutex::default(),
            room: Mutex::default(),
            cause: Mutex::default(),
            changes: watch::Sender::new(0),
            started: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A lease on the component, loading it first if it is not there with this content.
    ///
    /// Content matches when the registered digest is given and equal, or, without one, when the file
    /// identities are equal; other ready content under the key is superseded (its leases keep it until
    /// they end). Concurrent callers of one key join one load. Dropping the future leaves the load
    /// running; `cancel` ends it if no other caller waits, also for futures that are dropped after it. Cancel safe.
    ///
    /// # Errors
    /// See [`ResidencyError`]. On `Cancelled` the last bytes may be on their way back.
    pub async fn acquire(
        &self,
        request: impl Into<Arc<LoadRequest>>,
        cancel: &CancellationToken,
    ) -> Result<Lease, ResidencyError> {
        let request = request.into();
        let cancelled = || ResidencyError::Cancelled { key: request.key.clone() };
        let mut counted = false;
        loop {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            match self.inner.ask(&request, &mut counted, cancel)? {
                Answer::Ready(lease) => return Ok(lease),
                Answer::Wait(ticket) => {
                    if let Some(lease) = ticket.wait().await? {
                        return Ok(lease);
                    }
                }
                Answer::Busy(mut changes) => tokio::select! {
                    () = cancel.cancelled() => return Err(cancelled()),
                    _ = changes.changed() => {}
                },
            }
        }
    }

    /// A lease on what is ready under `key`, whatever its content; never loads.
    ///
    /// # Errors
    /// `NotResident`.
    pub fn lease(&self, key: &str) -> Result<Lease, ResidencyError> {
        self.inner.lease(key)
    }

    /// Takes a component out. When this returns, its memory is back (unless a reader kept a
    /// descriptor beyond its lease).
    ///
    /// # Errors
    /// `Leased`, `Protected`, `Loading`, `NotResident`.
    pub async fn evict(&self, key: &str) -> Result<FreedBytes, ResidencyError> {
        self.evict_for(key, Reason::Requested).await
    }

    /// As [`RamTier::evict`], with more to say why.
    ///
    /// # Errors
    /// As [`RamTier::evict`].
    pub async fn evict_for(&self, key: &str, why: impl Into<Why>) -> Result<FreedBytes, ResidencyError> {
        let (inner, key, why) = (self.inner.clone(), Arc::from(key), why.into());
        self.blocking(move || inner.evict_requested(&key, why)).await?
    }

    /// Allows so many bytes of the configured budget from now on, with the reason that refused loads are told, and takes
    /// out by the policy what no longer fits. Leased and protected entries and running loads stay, so that more may be
    /// held than is allowed; nothing is granted until that has changed. To be called again while it has not.
    ///
    /// # Errors
    /// Only when the runtime is shutting down.
    pub async fn limit(&self, budget_bytes: u64, cause: &str) -> Result<FreedBytes, ResidencyError> {
        cause.clone_into(&mut self.inner.cause.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.budget.set_limit(budget_bytes);
        self.inner.bump();
        let inner = self.inner.clone();
        self.blocking(move || inner.shrink()).await
    }

    /// Takes out what has outlived its keep-alive.
    ///
    /// # Errors
    /// Only when the runtime is shutting down.
    pub async fn expire(&self) -> Result<FreedBytes, ResidencyError> {
        let inner = self.inner.clone();
        self.blocking(move || inner.expire()).await
    }

    /// Time until the next entry outlives its keep-alive, as things are.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.inner.next_expiry()
    }

    /// Says how long a loading or ready component stays after its last use; none: as configured.
    ///
    /// # Errors
    /// `NotResident`.
    pub fn set_keep_alive(&self, key: &str, keep_alive: Option<KeepAlive>) -> Result<(), ResidencyError> {
        self.inner.set_keep_alive(key, keep_alive)
    }

    /// Decisions after `seq`, oldest first; the last few hundred are kept.
    pub fn decisions_after(&self, seq: u64) -> Vec<Decision> {
        self.inner.table().decisions.after(seq)
    }

    /// What is on its way out, or out, and was not told yet.
    pub fn departures(&self) -> Vec<Departure> {
        self.inner.table().departures.all()
    }

    /// A departure was told.
    pub fn departure_told(&self, key: &str, unix_ms: u64) {
        self.inner.table().departures.told(key, unix_ms);
    }

    /// Time since the tier's start, on the clock of [`Decision::since_start`].
    pub fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// True when content is ready under `key`. No use: it changes no count and no order.
    pub fn holds(&self, key: &str) -> bool {
        self.inner.table().slots.get(key).is_some_and(|slot| slot.entry.state == State::Ready)
    }

    /// The files that the content under `key` was read from; none when nothing is ready there.
    pub fn files_of(&self, key: &str) -> Vec<FileIdentity> {
        let table = self.inner.table();
        let ready = table.slots.get(key).filter(|slot| slot.entry.state == State::Ready);
        ready.map(|slot| slot.identities.clone()).unwrap_or_default()
    }

    /// How long a load waits for a byte; zero: for ever.
    pub fn io_timeout(&self) -> Duration {
        self.inner.config.io_timeout
    }

    /// Reads of somebody else from these disks begin; how long one of them has hung, if one does.
    pub fn begin_reads(&self, devices: Vec<u64>) -> Result<Afoot, Duration> {
        self.inner.hung.since(&devices).map_or_else(|| Ok(self.inner.hung.begin(devices)), Err)
    }

    /// Disks with reads that were given up and have not come back.
    pub fn hung_disks(&self) -> usize {
        self.inner.hung.count()
    }

    /// How victims are chosen.
    pub fn policy(&self) -> Policy {
        self.inner.config.policy
    }

    /// The policy with its settings.
    pub fn rules(&self) -> Rules {
        self.inner.config.rules()
    }

    /// The ready entries as the policy sees them now.
    pub fn candidates(&self) -> Vec<Candidate> {
        let now = self.inner.started.elapsed();
        self.inner.table().candidates(now)
    }

    /// Seconds that reading these bytes takes, by the measured speed of each disk.
    pub fn read_seconds(&self, from: &[ReadFrom]) -> f64 {
        self.inner.table().bandwidth.seconds(from)
    }

    /// The ledger alone.
    pub fn ledger(&self) -> BudgetView {
        self.inner.budget.view()
    }

    /// The counters alone.
    pub fn stats(&self) -> TierStats {
        self.inner.table().stats
    }

    /// Takes out everything that is neither leased nor protected nor loading, and forgets failures.
    ///
    /// # Errors
    /// Only when the runtime is shutting down.
    pub async fn clear(&self) -> Result<ClearReport, ResidencyError> {
        self.clear_for(Reason::Cleared).await
    }

    /// As [`RamTier::clear`], with more to say why.
    ///
    /// # Errors
    /// As [`RamTier::clear`].
    pub async fn clear_for(&self, why: impl Into<Why>) -> Result<ClearReport, ResidencyError> {
        let (inner, why) = (self.inner.clone(), why.into());
        self.blocking(move || inner.clear(why)).await
    }

    /// Freeing gigabytes takes the kernel long enough not to do it on an async thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ResidencyError> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| ResidencyError::Thread { source: Arc::new(io::Error::other(error)) })
    }

    /// Sets or removes the operator's keep on a loading or ready component.
    ///
    /// # Errors
    /// `NotResident`.
    pub fn protect(&self, key: &str, protected: bool) -> Result<(), ResidencyError> {
        self.inner.protect(key, protected)
    }

    /// Cancels a running load for all its callers. Bytes stop within a chunk; callers get `Cancelled`
    /// once the memory is back.
    ///
    /// # Errors
    /// `NotResident` when no load of `key` runs.
    pub fn cancel(&self, key: &str) -> Result<(), ResidencyError> {
        self.inner.cancel(key).map(drop)
    }

    /// The same, and waits until the load has ended and the callers have heard of it: whether it ended for that. It may
    /// have come to its own end before, and be resident.
    ///
    /// Cancel safe: the load ends all the same.
    ///
    /// # Errors
    /// As [`RamTier::cancel`].
    pub async fn end_load(&self, key: &str) -> Result<bool, ResidencyError> {
        let mut flight = self.inner.cancel(key)?;
        let outcome = flight.done.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        // a load that is gone without a word has ended as well
        Ok(outcome.is_none_or(|outcome| matches!(outcome, Err(ResidencyError::Cancelled { .. }))))
    }

    /// How far the load of `key` is; none when none runs.
    pub fn progress(&self, key: &str) -> Option<ProgressSnapshot> {
        let table = self.inner.table();
        let slot = table.slots.get(key).filter(|slot| slot.entry.state == State::Loading)?;
        Some(slot.flight.progress.snapshot())
    }

    /// How far the bytes of a running load of `key` are, for those who carry them on before it ends; none when none runs.
    pub fn arrival(&self, key: &str) -> Option<watch::Receiver<Option<Arrival>>> {
        let table = self.inner.table();
        let slot = table.slots.get(key).filter(|slot| slot.entry.state == State::Loading)?;
        Some(slot.flight.progress.arrival())
    }

    /// Changes whenever an entry does (not for progress); the value is the snapshot's generation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Just this is said about keeping a loading or ready component from here on, as if nothing had been said since it was.
    ///
    /// # Errors
    /// `NotResident`.
    pub fn say_exactly(&self, key: &str, kept: Kept) -> Result<(), ResidencyError> {
        self.inner.say_exactly(key, kept)
    }

    /// What is said about keeping what is ready, by key.
    pub fn kept(&self) -> BTreeMap<String, Kept> {
        self.inner.table().kept()
    }

    /// Everything at one moment.
    pub fn snapshot(&self) -> TierSnapshot {
        self.inner.snapshot()
    }

    /// What the ledger says beside what the system says is allocated.
    ///
    /// # Errors
    /// What `fstat` answers.
    pub fn accounted_vs_system(&self) -> io::Result<Audit> {
        let (arenas, system_bytes) = self.inner.arenas.allocated()?;
        let view = self.inner.budget.view();
        Ok(Audit {
            used_bytes: view.used_bytes,
            reserved_bytes: view.reserved_bytes,
            system_bytes,
            arenas,
            underflows_total: view.underflows_total,
        })
    }
}
