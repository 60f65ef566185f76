//! Can Postgres and Redis run or be reached.

use std::{path::Path, time::Duration};

use private_stores::{Found, RunAs, StoresError, find_postgres, find_redis};
use shared::{
    config::Stores,
    db,
    error::{Classify, chain},
    status::LiveStatus,
};

use super::Finding;

const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn check(state: &Path, database_url: Option<&str>, redis_url: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match database_url {
        Some(url) => findings.push(external_postgres(url).await),
        None => {
            findings.push(server("postgres", find_postgres()));
            findings.push(identity(state));
        }
    }
    findings.push(match redis_url {
        Some(url) => external_redis(url).await,
        None => server("redis", find_redis()),
    });
    findings
}

fn server(check: &'static str, found: Result<Found, StoresError>) -> Finding {
    match found {
        Ok(found) => Finding::ok(check, format!("{} {}", found.program.display(), found.version)),
        Err(error) => Finding::fail(check, chain(&error), error.hint().unwrap_or_default()),
    }
}

fn identity(state: &Path) -> Finding {
    // before the first `up` the folder is not there; what counts is the way to it
    let place = state.ancestors().find(|folder| folder.is_dir()).unwrap_or(state);
    match RunAs::choose(place, &["postgres"]) {
        Ok(RunAs::Caller) => Finding::ok("user", "Postgres runs as this user"),
        Ok(RunAs::User { name, .. }) => Finding::ok("user", format!("Postgres runs as user {name}")),
        Ok(RunAs::Namespace) => Finding::ok("user", "Postgres runs in a user namespace"),
        Err(error) => Finding::fail("user", chain(&error), error.hint().unwrap_or_default()),
    }
}

async fn external_postgres(url: &str) -> Finding {
    let stores = Stores { database_url: url.to_owned(), redis_url: None, database_connections: 1 };
    let fix = "check the server, user and database of DATABASE_URL";
    let pool = match db::pool(&stores, "modelyard-doctor") {
        Ok(pool) => pool,
        Err(error) => return Finding::fail("postgres", chain(&error), fix),
    };
    match tokio::time::timeout(PATIENCE, db::probe(&pool)).await {
        Ok(Ok(())) => Finding::ok("postgres", "DATABASE_URL: takes writes, the schema is the one of this build"),
        Ok(Err(db::DbError::Schema(_))) => Finding::warn(
            "postgres",
            "DATABASE_URL: the schema is not the one of this build",
            "run `modelyard migrate` (`modelyard up` does it too)",
        ),
        Ok(Err(error)) => Finding::fail("postgres", format!("DATABASE_URL: {}", chain(&error)), fix),
        Err(_) => Finding::fail("postgres", format!("DATABASE_URL: no answer in {} s", PATIENCE.as_secs()), fix),
    }
}

async fn external_redis(url: &str) -> Finding {
    let fix = "check the server and user of REDIS_URL; without Redis the status is stale, nothing else";
    let live = match LiveStatus::connect(Some(url)) {
        Ok(live) => live,
        Err(error) => return Finding::warn("redis", format!("REDIS_URL: {}", chain(&error)), fix),
    };
    match live.snapshots(&[]).await {
        Ok(_) => Finding::ok("redis", "REDIS_URL: answers"),
        Err(error) => Finding::warn("redis", format!("REDIS_URL: {}", chain(&error)), fix),
    }
}
