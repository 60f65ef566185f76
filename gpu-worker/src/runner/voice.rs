//! The runner's sending end.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
};

use super::{channel, protocol::Event};

/// The sending end, shared by the threads that have something to say.
#[derive(Debug, Clone)]
pub(super) struct Voice(Arc<Mutex<UnixStream>>);

impl Voice {
    /// Speaks through this socket.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Says it, whole, before another thread says something.
    ///
    /// # Errors
    /// When the agent is gone.
    pub(super) fn say(&self, event: Event) -> std::io::Result<()> {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channel::send_event(&mut socket, event)
    }
}
