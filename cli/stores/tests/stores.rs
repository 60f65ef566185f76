//! Real servers of this machine: made, used through the product's own clients, killed, restarted, adopted, stopped.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::{os::unix::fs::PermissionsExt, path::Path};

use private_stores::{Options, Postgres, Redis, StopMode, Stores};
use shared::status::LiveStatus;

fn config(url: &str) -> shared::config::Stores {
    shared::config::Stores { database_url: url.to_owned(), redis_url: None, database_connections: 2 }
}

/// Migrates and writes through the product's own pool.
async fn works(url: &str) {
    let pool = shared::db::pool(&config(url), "stores-test").unwrap();
    shared::db::migrate(&pool).await.unwrap();
    shared::db::probe(&pool).await.unwrap();
    pool.close().await;
}

async fn live(url: &str) -> bool {
    LiveStatus::connect(Some(url)).unwrap().snapshots(&["nobody".to_owned()]).await.is_ok()
}

#[tokio::test]
async fn both_stores_start_are_used_and_end_with_the_handle() {
    let folder = tempfile::tempdir().unwrap();
    let mut stores = Stores::ensure(folder.path(), Options::TEST).unwrap();
    works(stores.postgres.url()).await;
    assert!(live(stores.redis.url()).await);

    let pids = [stores.postgres.pid().unwrap(), stores.redis.pid().unwrap()];
    stores.redis.stop().unwrap();
    assert!(!live(stores.redis.url()).await);
    stores.redis.start().unwrap();
    assert!(live(stores.redis.url()).await);

    drop(stores);
    assert_eq!(pids.map(|pid| Path::new(&format!("/proc/{pid}/cwd")).exists()), [false, false]);
}

#[tokio::test]
async fn postgres_survives_a_restart_a_crash_and_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::ensure(folder.path(), Options::TEST).unwrap();
    works(postgres.url()).await;
    let first = postgres.pid();
    postgres.restart(StopMode::Fast).unwrap();
    assert_ne!(postgres.pid(), first);
    works(postgres.url()).await;
    postgres.restart(StopMode::Immediate).unwrap();
    works(postgres.url()).await;
    postgres.kill().unwrap();
    assert_eq!(postgres.pid(), None);
    postgres.start().unwrap();
    works(postgres.url()).await;
}

#[tokio::test]
async fn a_detached_server_is_adopted_and_can_be_found_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { detached: true, ..Options::TEST };
    let first = Postgres::ensure(folder.path(), options).unwrap();
    let (url, pid) = (first.url().to_owned(), first.pid());
    drop(first);
    let again = Postgres::ensure(folder.path(), options).unwrap();
    assert_eq!((again.url(), again.pid()), (url.as_str(), pid));
    works(&url).await;

    let redis = Redis::ensure(folder.path(), options).unwrap();
    let pid = redis.pid();
    drop(redis);
    let mut found = Redis::find(folder.path()).unwrap().unwrap();
    assert_eq!(found.pid(), pid);
    found.stop().unwrap();

    let mut found = Postgres::find(folder.path()).unwrap().unwrap();
    assert_eq!(found.pid(), again.pid());
    found.stop(StopMode::Fast).unwrap();
    assert_eq!(again.pid(), None);
}

#[test]
fn data_of_another_major_is_refused_with_a_way_out() {
    use shared::error::Classify;
    let folder = tempfile::tempdir().unwrap();
    drop(Postgres::ensure(folder.path(), Options::TEST).unwrap());
    std::fs::write(folder.path().join("postgres/data/PG_VERSION"), "11\n").unwrap();
    let error = Postgres::ensure(folder.path(), Options::TEST).unwrap_err();
    assert!(error.to_string().contains("made by Postgres 11"), "{error}");
    assert!(error.hint().unwrap().contains("pg_upgrade"), "{:?}", error.hint());
}

#[tokio::test]
async fn a_deep_folder_that_only_root_enters_works_too() {
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    let deep = closed.join("d".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let stores = Stores::ensure(&deep, Options::TEST).unwrap();
    works(stores.postgres.url()).await;
    assert!(live(stores.redis.url()).await);
}

#[test]
fn nothing_made_means_nothing_found() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Postgres::find(folder.path()).unwrap().is_none());
    assert!(Redis::find(&folder.path().join("none")).unwrap().is_none());
}
