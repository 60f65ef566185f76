//! `modelyard migrate`, also the first step of `up`.

use std::time::Duration;

use clap::Args;
use shared::{
    config::{Stores, parse_seconds},
    db::{self, DbError},
    error::{Classify, ErrorCode},
};

use tokio::time::Instant;

use crate::{error::CliError, output::Output};

/// Options of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Postgres to migrate.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: String,

    /// How long to wait for Postgres.
    #[arg(long, default_value = "5", value_parser = parse_seconds, value_name = "TIME")]
    store_wait: Duration,
}

/// Brings the schema to this build's.
///
/// # Errors
/// When Postgres cannot be reached or its schema is newer.
pub(crate) async fn run(args: MigrateArgs, output: Output) -> Result<(), CliError> {
    migrate(&args.database_url, args.store_wait).await?;
    if output.json {
        return output.value(&serde_json::json!({ "migrated": true }));
    }
    output.note("the database's schema is the one of this build");
    Ok(())
}

/// [`run`] without words.
pub(crate) async fn migrate(database_url: &str, patience: Duration) -> Result<(), CliError> {
    let stores = Stores { database_url: database_url.to_owned(), redis_url: None, database_connections: 2 };
    connect(&stores, patience).await.map_err(|error| cannot_connect(&error))?;
    let pool = db::pool(&stores, "modelyard-migrate").map_err(|error| CliError::of(&error))?;
    let outcome = db::migrate(&pool).await.map_err(|error| cannot_migrate(&error));
    pool.close().await;
    outcome
}

/// Connects once, trying again while the server is merely away.
async fn connect(stores: &Stores, patience: Duration) -> Result<(), DbError> {
    let deadline = Instant::now() + patience;
    loop {
        match db::dedicated(stores, "modelyard-migrate").await {
            Err(DbError::Unavailable(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            outcome => return outcome.map(drop),
        }
    }
}

fn cannot_connect(error: &DbError) -> CliError {
    let hint = "check the server and user of --database-url (DATABASE_URL)";
    match error {
        // it answers and refuses this user, password or database
        DbError::Statement(cause) => {
            CliError::failed(ErrorCode::InvalidArgument, format!("Postgres refuses the connection: {cause}")).hint(hint)
        }
        DbError::Unavailable(_) => CliError::of(error).hint(hint),
        other => CliError::of(other),
    }
}

fn cannot_migrate(error: &DbError) -> CliError {
    let failure = CliError::of(error);
    match error {
        DbError::Schema(_) => CliError::Failed {
            code: error.code(),
            message: shared::error::chain(error).replace("; run `modelyard migrate`", " and cannot be brought to it"),
            hint: Some("a newer build may have migrated this database: use that build".to_owned()),
        },
        _ => failure,
    }
}
