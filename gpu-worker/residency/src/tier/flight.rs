//! A running load: a thread that belongs to no caller, and the ways to watch and stop it.

use std::{sync::Arc, thread, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Inner, lease::Resident};
use crate::{
    error::ResidencyError,
    layout::Layout,
    loader,
    progress::{Phase, Progress},
    request::LoadRequest,
};

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

    /// The whole load. On any error the extent and the reservation are gone when this returns.
    fn load(
        &self,
        request: &LoadRequest,
        cancel: &CancellationToken,
        progress: &Progress,
    ) -> Result<(Resident, Duration), ResidencyError> {
        request.check()?;
        let layout = Layout::plan(request).ok_or_else(|| ResidencyError::BadRequest {
            key: request.key.clone(),
            reason: "the tensors' sum cannot be addressed".into(),
        })?;
        progress.enter(Phase::MakingRoom);
        let reservation = self.make_room(&request.key, layout.extent_bytes, cancel)?;
        let memory = |source| ResidencyError::Memory { bytes: layout.extent_bytes, source: Arc::new(source) };
        let draft = self.arenas.create(layout.extent_bytes).map_err(memory)?;
        let loaded = loader::load(request, &layout, &draft, cancel, progress, &self.disks)?;
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
}
