//! What somebody outside can do to a run: watch it and stop it.

use std::sync::{Arc, Mutex, PoisonError};

use ort::session::RunOptions;

use crate::error::EngineError;

/// A request to stop, shared between who asks and who runs. Stops the run that is under way and every later one.
#[derive(Clone, Default)]
pub struct Cancel {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: bool,
    running: Option<Arc<RunOptions>>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("asked", &self.is_cancelled()).finish_non_exhaustive()
    }
}

impl Cancel {
    /// Nobody has asked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the stop: returns at once; a run ends before its next operator.
    pub fn cancel(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked = true;
        if let Some(Err(error)) = state.running.as_ref().map(|options| options.terminate()) {
            tracing::warn!(%error, "a run could not be told to stop");
        }
    }

    /// True once somebody has asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked
    }

    /// True while a run is under way that a request would stop.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).running.is_some()
    }

    /// An error once somebody has asked.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub fn check(&self) -> Result<(), EngineError> {
        if self.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// Names the run that is to be stopped; nothing runs any more once the answer is dropped.
    pub(super) fn watch(&self, options: &Arc<RunOptions>) -> Result<Watch<'_>, EngineError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.asked {
            return Err(EngineError::Cancelled);
        }
        state.running = Some(Arc::clone(options));
        Ok(Watch { cancel: self })
    }
}

/// A run that can be stopped.
pub(super) struct Watch<'c> {
    cancel: &'c Cancel,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.cancel.state.lock().unwrap_or_else(PoisonError::into_inner).running = None;
    }
}

/// Told how far a piece of work is: done, of how many.
pub type Progress = Arc<dyn Fn(usize, usize) + Send + Sync>;

/// Asked for so many bytes beside the weights before a graph runs, as estimated; sets them aside or refuses.
pub type Reserve = Arc<dyn Fn(u64) -> Result<(), EngineError> + Send + Sync>;

/// What kind of model a graph belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Makes states of prompts.
    TextEncoder,
    /// Predicts noise.
    Unet,
    /// Makes images of latents, or latents of images.
    Vae,
}

/// What memory one run of a graph took beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    /// Whose graph it is.
    pub part: Part,
    /// Bytes that were expected before it.
    pub estimated_bytes: u64,
    /// Bytes that were measured after it; none where an earlier run of the same session took as much, or the library does not count.
    pub peak_bytes: Option<u64>,
}

/// Told what each run of a graph took.
pub type Note = Arc<dyn Fn(Took) + Send + Sync>;

/// How a run is watched, stopped, and given memory.
#[derive(Clone, Default)]
pub struct Control {
    /// Stops it.
    pub cancel: Cancel,
    /// Called after each part (a tile, a step), where the work has parts.
    pub progress: Option<Progress>,
    /// Sets aside what it takes; without it nobody is asked.
    pub reserve: Option<Reserve>,
    /// Hears what each run of a graph took.
    pub note: Option<Note>,
}

impl Control {
    /// Sets aside what a run is about to take.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] when it is not there.
    pub fn reserve(&self, bytes: u64) -> Result<(), EngineError> {
        self.reserve.as_ref().map_or(Ok(()), |reserve| reserve(bytes))
    }

    /// Says what a run of a graph took.
    pub(crate) fn took(&self, took: Took) {
        if let Some(note) = &self.note {
            note(took);
        }
    }

    /// Says how far the work is.
    pub fn report(&self, done: usize, of: usize) {
        if let Some(progress) = &self.progress {
            progress(done, of);
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}
