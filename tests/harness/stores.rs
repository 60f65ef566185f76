//! The stores of the tests: one Postgres for all farms of a test binary with a database for each, or one of a farm's
//! own; always a Redis of its own.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU32, Ordering},
};

use private_stores::{Options, Postgres};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// Name of the migrated database that others are copied from.
const TEMPLATE: &str = "template_modelyard";

/// A private Postgres with a migrated template database.
#[derive(Debug)]
pub struct Server {
    // before the folder: dropped first
    postgres: Mutex<Postgres>,
    made: AtomicU32,
    _folder: TempDir,
}

static SHARED: tokio::sync::Mutex<Weak<Server>> = tokio::sync::Mutex::const_new(Weak::new());

impl Server {
    /// The server that all farms share; it ends with the last of them.
    pub(crate) async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(Options::TEST).await);
        *shared = Arc::downgrade(&server);
        server
    }

    /// A server of one's own, which keeps what it committed also when it is killed.
    pub(crate) async fn own() -> Self {
        Self::start(Options { durable: true, ..Options::TEST }).await
    }

    async fn start(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("modelyard-test-").tempdir().expect("a temporary folder");
        let postgres = Postgres::ensure(folder.path(), options).unwrap_or_else(|error| panic!("{error}"));
        let server = Self { postgres: Mutex::new(postgres), made: AtomicU32::new(0), _folder: folder };
        server.run(&format!("create database {TEMPLATE}")).await;
        let stores = shared::config::Stores {
            database_url: server.with(|postgres| postgres.url_of(TEMPLATE)),
            redis_url: None,
            database_connections: 1,
        };
        let pool = shared::db::pool(&stores, "modelyard-tests").expect("a pool");
        shared::db::migrate(&pool).await.expect("migrations run");
        // a database with sessions cannot be copied
        pool.close().await;
        server
    }

    async fn run(&self, sql: &str) {
        let url = self.with(|postgres| postgres.url().to_owned());
        let mut session = PgConnection::connect(&url).await.expect("the private Postgres takes sessions");
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut session).await.expect(sql);
        session.close().await.expect("a session can be closed");
    }

    /// Does something with the server itself: kill, restart, ask for its pid.
    pub fn with<T>(&self, work: impl FnOnce(&mut Postgres) -> T) -> T {
        work(&mut self.postgres.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a migrated database and gives its URL.
    pub(crate) async fn database(&self) -> String {
        let name = format!("farm_{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.run(&format!("create database {name} template {TEMPLATE}")).await;
        self.with(|postgres| postgres.url_of(&name))
    }

    /// Makes an empty database, without a schema, and gives its URL.
    pub async fn empty_database(&self) -> String {
        let name = format!("empty_{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.run(&format!("create database {name}")).await;
        self.with(|postgres| postgres.url_of(&name))
    }
}
