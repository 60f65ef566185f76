//! The one private Postgres of a run, with a database for each system.

use std::path::Path;

use private_stores::{Options, Postgres};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// Committed means on disk, as in production; the server ends with this process.
const OPTIONS: Options = Options { durable: true, ..Options::TEST };

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    postgres: Postgres,
}

impl Server {
    /// Makes and starts it below `dir`, with the settings of the product's own private server.
    ///
    /// # Errors
    /// What did not start and why.
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.to_owned();
        let postgres = tokio::task::spawn_blocking(move || Postgres::ensure(&dir, OPTIONS)).await??;
        Ok(Self { postgres })
    }

    /// Version of the server program.
    pub(crate) fn version(&self) -> &str {
        self.postgres.version()
    }

    /// Makes an empty database; answers its URL.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn database(&self, name: &str) -> anyhow::Result<String> {
        let mut admin = PgConnection::connect(self.postgres.url()).await?;
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await?;
        admin.close().await?;
        Ok(self.postgres.url_of(name))
    }

    /// Writes everything back, so that no pass pays for what was prepared before it.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let mut admin = PgConnection::connect(self.postgres.url()).await?;
        admin.execute("checkpoint").await?;
        Ok(admin.close().await?)
    }
}
