//! A running load: a thread that belongs to no caller, and the ways to watch and stop it.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Inner, lease::Resident};
use crate::{
    arena::Draft,
    arrival::Unverified,
    entry::State,
    error::ResidencyError,
    layout::Layout,
    loader::{self, Afoot, Loaded, Verdict, Watchdog},
    progress::{Phase, Progress},
    request::LoadRequest,
};

/// How often a load that is under way is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How a load ended.
pub(super) type Outcome = Result<(), ResidencyError>;

/// The handles of one load.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) cancel: CancellationToken,
    pub(super) progress: Arc<Progress>,
    pub(super) done: watch::Receiver<Option<Outcome>>,
}

impl Flight {
    pub(super) fn new(request: &LoadRequest) -> (Self, watch::Sender<Option<Outcome>>) {
        let (sender, done) = watch::channel(None);
        let progress = Arc::new(Progress::new(request.tensor_bytes()));
        (Self { cancel: CancellationToken::new(), progress, done }, sender)
    }
}

/// Lands the load even if its thread panics.
struct Landing {
    inner: Arc<Inner>,
    request: Arc<LoadRequest>,
    id: u64,
    flight: Flight,
    done: watch::Sender<Option<Outcome>>,
    result: Option<Result<(Resident, Duration), ResidencyError>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let key = &self.request.key;
        let aborted = || Err(ResidencyError::Aborted { key: key.clone() });
        let result = self.result.take().unwrap_or_else(aborted);
        self.flight.progress.end_arrival();
        self.flight.progress.enter(Phase::Done);
        self.inner.land(key, self.id, result, &self.done);
    }
}

impl Inner {
    /// Starts the load's thread. The slot must be in the table before the lock that the caller holds
    /// is released.
    pub(super) fn launch(
        self: &Arc<Self>,
        request: Arc<LoadRequest>,
        id: u64,
        flight: Flight,
        done: watch::Sender<Option<Outcome>>,
    ) -> Result<(), ResidencyError> {
        // The thread lands through the table's lock, hence never before the caller has put the slot in.
        let inner = self.clone();
        let run = move || {
            let mut landing = Landing { inner, request, id, flight, done, result: None };
            let result = landing.inner.load(&landing.request, &landing.flight.cancel, &landing.flight.progress);
            landing.result = Some(result);
        };
        thread::Builder::new()
            .name("load".into())
            .spawn(run)
            .map(drop)
            .map_err(|error| ResidencyError::Thread { source: Arc::new(error) })
    }

    /// Cancels the running load of `key`.
    pub(super) fn cancel(&self, key: &str) -> Result<Flight, ResidencyError> {
        match self.table().slots.get(key) {
            Some(slot) if slot.entry.state == State::Loading => {
                slot.flight.cancel.cancel();
                Ok(slot.flight.clone())
            }
            _ => Err(ResidencyError::NotResident { key: key.into() }),
        }
    }

    /// The whole load. On any error the extent and the reservation are gone when this returns.
    fn load(
        &self,
        request: &Arc<LoadRequest>,
        cancel: &CancellationToken,
        progress: &Arc<Progress>,
    ) -> Result<(Resident, Duration), ResidencyError> {
        request.check()?;
        let layout = Layout::plan(request).ok_or_else(|| ResidencyError::BadRequest {
            key: request.key.clone(),
            reason: "the tensors' sum cannot be addressed".into(),
        })?;
        progress.enter(Phase::MakingRoom);
        let reservation = self.make_room(&request.key, layout.extent_bytes, cancel)?;
        let bytes = layout.extent_bytes;
        let memory = |source| ResidencyError::Memory { bytes, source: Arc::new(source) };
        let draft = Arc::new(self.arenas.create(bytes).map_err(memory)?);
        let layout = Arc::new(layout);
        progress.begin_arrival(Unverified::of(&draft, &layout).map_err(memory)?);
        let loaded = self.read(request, &layout, &draft, cancel, progress).inspect_err(|_| discard(&draft, request))?;
        // who read is gone, and a plan that cannot be taken back is a bug
        let aborted = || ResidencyError::Aborted { key: request.key.clone() };
        let (draft, layout) = (Arc::into_inner(draft).ok_or_else(aborted)?, Arc::unwrap_or_clone(layout));
        let extent = draft.seal().map_err(memory)?;
        let resident = Resident {
            extent,
            _reservation: reservation.commit(),
            tensors: layout.tensors,
            digest: loaded.digest,
            tensor_bytes: loaded.bytes,
            modes: loaded.modes,
        };
        Ok((resident, loaded.took))
    }

    /// Reads on a thread of its own, so that a disk which never answers holds that thread and neither the callers nor the
    /// memory: this one gives up, the pages are taken back, and the other finds out when its read returns.
    fn read(
        &self,
        request: &Arc<LoadRequest>,
        layout: &Arc<Layout>,
        draft: &Arc<Draft>,
        cancel: &CancellationToken,
        progress: &Arc<Progress>,
    ) -> Result<Loaded, ResidencyError> {
        let devices: Vec<u64> = request.read_from().iter().map(|from| from.device).collect();
        let silent = devices.iter().find_map(|device| Some((*device, self.hung.since(&[*device])?)));
        if let Some((device, since)) = silent {
            return Err(stalled(request, &[device], since));
        }
        let (stop, reads, began) = (cancel.child_token(), self.hung.begin_by_call(devices), Instant::now());
        let landed = self.reader(request, layout, draft, &stop, progress, &reads)?;
        let mut watchdog = Watchdog::new(self.config.io_timeout);
        loop {
            match landed.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ResidencyError::Aborted { key: request.key.clone() });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let verdict = watchdog.look(
                began.elapsed(),
                (progress.snapshot(), progress.reads()),
                progress.is_held(),
                cancel.is_cancelled(),
            );
            let error = match verdict {
                Verdict::Wait => continue,
                Verdict::Cancelled => {
                    reads.doubt(self.config.io_timeout);
                    ResidencyError::Cancelled { key: request.key.clone() }
                }
                Verdict::Stalled => given_up(request, &reads.give_up(), self.config.io_timeout),
            };
            stop.cancel();
            return Err(error);
        }
    }

    /// Starts the thread that reads; its result comes once it has let go of the draft.
    fn reader(
        &self,
        request: &Arc<LoadRequest>,
        layout: &Arc<Layout>,
        draft: &Arc<Draft>,
        stop: &CancellationToken,
        progress: &Arc<Progress>,
        reads: &Afoot,
    ) -> Result<mpsc::Receiver<Result<Loaded, ResidencyError>>, ResidencyError> {
        let (sender, landed) = mpsc::sync_channel(1);
        let (request, layout, draft) = (request.clone(), layout.clone(), draft.clone());
        let (stop, progress, disks, reading) = (stop.clone(), progress.clone(), self.disks.clone(), reads.reading());
        let run = move || {
            let result = loader::load(&request, &layout, &draft, &stop, &progress, &disks, &reading);
            drop((layout, draft, reading));
            // nobody listens to what was given up
            let _ = sender.send(result);
        };
        let started = thread::Builder::new().name("read".into()).spawn(run);
        started.map(|_| landed).map_err(|error| ResidencyError::Thread { source: Arc::new(error) })
    }
}

/// Gives the pages back, whoever still has a descriptor: a thread that is stuck in a read, or who follows the load.
fn discard(draft: &Draft, request: &LoadRequest) {
    if let Err(refused) = draft.discard() {
        tracing::error!(key = &*request.key, %refused, "the pages of a load that failed stay until the last reader is gone");
    }
}

/// Nothing came from these disks, or from none of them when they have answered all that they were asked.
fn given_up(request: &LoadRequest, silent: &[u64], after: Duration) -> ResidencyError {
    match silent {
        [] => ResidencyError::Stuck { key: request.key.clone(), seconds: after.as_secs() },
        disks => stalled(request, disks, after),
    }
}

/// The first file on one of these disks is named.
fn stalled(request: &LoadRequest, disks: &[u64], since: Duration) -> ResidencyError {
    let there = request.sources.iter().find(|source| disks.contains(&source.expected.dev));
    let path = there.or(request.sources.first()).map(|source| source.path.clone()).unwrap_or_default();
    ResidencyError::Stalled { path, seconds: since.as_secs() }
}
