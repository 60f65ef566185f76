//! Hints that belong to no transaction: sent after the commit, many in one statement.
//!
//! A NOTIFY inside a transaction makes its commit exclusive: Postgres orders notifications by one lock that is held over the
//! flush to disk, so that workers which notify commit one after the other. What ends or starts a job therefore commits without,
//! and the hint follows on its own. It may be lost with the process; every waiter polls as well.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{PgExecutor, PgPool};
use tokio::sync::mpsc;

use super::DbError;
use crate::{error::chain, shutdown::Tasks};

/// Rest after a statement: hints that come meanwhile go together.
const REST: Duration = Duration::from_millis(2);
/// Most hints of one statement, and of the queue.
const BATCH: usize = 1024;

type Told = (&'static str, String);

/// Sends hints on the channels of [`super::listen`]. Cheap to clone: clones feed one queue.
#[derive(Debug, Clone)]
pub struct Teller {
    queue: mpsc::Sender<Told>,
}

impl Teller {
    /// Starts the sending task. It sends what is left before it ends with the others.
    pub fn start(pool: PgPool, tasks: &Tasks) -> Self {
        let (queue, mut told) = mpsc::channel(BATCH);
        let token = tasks.token().clone();
        tasks.spawn("tell", async move {
            while let Some(Some(first)) = token.run_until_cancelled(told.recv()).await {
                send_all(&pool, batch(Some(first), &mut told)).await;
                tokio::time::sleep(REST).await;
            }
            send_all(&pool, batch(None, &mut told)).await;
        });
        Self { queue }
    }

    /// Sends a hint soon: at once when nothing was sent just now. A hint that finds the queue full is dropped: there are
    /// a thousand before it, and whoever waits looks at the table.
    pub fn tell(&self, channel: &'static str, payload: impl Into<String>) {
        if self.queue.try_send((channel, payload.into())).is_err() {
            tracing::debug!(channel, "a hint was dropped");
        }
    }
}

/// Everything that waits; equal hints are one.
fn batch(first: Option<Told>, told: &mut mpsc::Receiver<Told>) -> BTreeSet<Told> {
    let waiting = std::iter::from_fn(|| told.try_recv().ok());
    first.into_iter().chain(waiting).take(BATCH).collect()
}

async fn send_all(pool: &PgPool, batch: BTreeSet<Told>) {
    if batch.is_empty() {
        return;
    }
    if let Err(error) = send(pool, &batch).await {
        tracing::debug!(hints = batch.len(), error = %chain(&error), "hints were not sent");
    }
}

async fn send(db: impl PgExecutor<'_>, batch: &BTreeSet<Told>) -> Result<(), DbError> {
    let (channels, payloads): (Vec<&str>, Vec<&str>) =
        batch.iter().map(|(channel, payload)| (*channel, payload.as_str())).unzip();
    sqlx::query("select pg_notify(channel, payload) from unnest($1::text[], $2::text[]) as told (channel, payload)")
        .bind(channels)
        .bind(payloads)
        .execute(db)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_goes_together_and_equal_hints_are_one() {
        let (queue, mut told) = mpsc::channel(8);
        for payload in ["a", "b", "a"] {
            queue.try_send(("job", payload.to_owned())).unwrap();
        }
        let together = batch(Some(("schedule", String::new())), &mut told);
        assert_eq!(together.len(), 3);
        assert!(batch(None, &mut told).is_empty());
    }
}
