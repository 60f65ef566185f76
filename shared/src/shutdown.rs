//! Every task of a process is spawned here, so that a stop reaches all of them and waits for them.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The tasks of one process: a token that says stop and a tracker that knows who is left.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// No tasks yet, not stopping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a named task that a stop waits for.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!("task", task = name);
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that may spawn: the tracker is what the ban asks for"
        )]
        tokio::spawn(self.tracker.track_future(future.instrument(span)))
    }

    /// The token that is cancelled when the process stops.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Asks all tasks to stop.
    pub fn stop(&self) {
        self.token.cancel();
        self.tracker.close();
    }

    /// Stops and waits; false when some task was still running after `grace`.
    pub async fn stop_and_wait(&self, grace: Duration) -> bool {
        self.stop();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

/// Resolves at SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn signalled() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
