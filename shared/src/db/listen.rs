//! Wake-up hints: one LISTEN connection per process, fanned out inside it. A hint may be lost; every waiter polls as well.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::broadcast;

use crate::{config::Stores, shutdown::Tasks};

/// A job was enqueued, came due or lost its place: the scheduler should look.
pub const SCHEDULE: &str = "modelyard_schedule";
/// Jobs were placed on the host named in the payload.
pub const PLACED: &str = "modelyard_placed";
/// A cancel was asked for the running job named in the payload.
pub const CANCEL: &str = "modelyard_cancel";
/// Something happened to the job named in the payload.
pub const JOB: &str = "modelyard_job";

/// One hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// One of the channel constants; empty after a reconnect, when anything may have been missed.
    pub channel: String,
    /// Job id or host name.
    pub payload: String,
}

/// The process's hints; subscribe before looking at the database.
#[derive(Debug, Clone)]
pub struct Hints {
    sender: broadcast::Sender<Hint>,
}

impl Hints {
    /// Starts the listening task; it reconnects for ever.
    pub fn start(stores: &Stores, channels: &'static [&'static str], tasks: &Tasks) -> Self {
        let (sender, _) = broadcast::channel(1024);
        let hints = Self { sender: sender.clone() };
        let url = stores.database_url.clone();
        let token = tasks.token().clone();
        tasks.spawn("listen", async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    error = listen(&url, channels, &sender) => {
                        tracing::warn!(error = %crate::error::chain(&error), "lost the hint connection; polling until it is back");
                    }
                }
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_millis(500)) => {}
                }
            }
        });
        hints
    }

    /// A receiver of all hints from now on. A lagging receiver must treat the lag as "anything may have happened".
    pub fn subscribe(&self) -> broadcast::Receiver<Hint> {
        self.sender.subscribe()
    }
}

async fn listen(url: &str, channels: &[&str], sender: &broadcast::Sender<Hint>) -> sqlx::Error {
    let mut listener = match PgListener::connect(url).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    if let Err(error) = listener.listen_all(channels.iter().copied()).await {
        return error;
    }
    // whoever waits may have missed something while we were away; no receiver is fine
    let _ = sender.send(Hint { channel: String::new(), payload: String::new() });
    loop {
        match listener.recv().await {
            Ok(note) => {
                let hint = Hint { channel: note.channel().to_owned(), payload: note.payload().to_owned() };
                let _ = sender.send(hint);
            }
            Err(error) => return error,
        }
    }
}
