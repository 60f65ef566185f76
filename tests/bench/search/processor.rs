//! Processor time of the database session that answers: what a question costs however busy the machine is.

use std::{fs, path::PathBuf};

use shared::db::Session;

/// The session's process, when it is one of this machine.
#[derive(Debug)]
pub(crate) struct Processor {
    statistics: PathBuf,
}

impl Processor {
    /// Of this session.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn of(conn: &mut Session) -> anyhow::Result<Self> {
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *conn).await?;
        Ok(Self { statistics: PathBuf::from(format!("/proc/{pid}/schedstat")) })
    }

    /// Milliseconds on a processor so far; none where the kernel does not say.
    pub(crate) fn used_ms(&self) -> Option<f64> {
        let text = fs::read_to_string(&self.statistics).ok()?;
        let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
        Some(nanoseconds as f64 / 1e6)
    }
}
