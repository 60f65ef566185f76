//! The REST API: validates requests, enqueues jobs in Postgres, merges what the catalogue knows with what hosts report.
#![forbid(unsafe_code)]

mod auth;
mod config;
mod context;
mod cursor;
mod edit;
mod extract;
mod horizon;
mod idempotency;
mod live;
mod merge;
mod metrics;
mod near;
mod openapi;
mod owners;
mod pipelines;
mod plan;
mod plot;
mod prefer;
mod problem;
mod range;
mod receive;
mod request_id;
mod router;
mod routes;
mod rules;
mod server;
mod sse;
mod state;
mod submit;
mod tag;
mod views;
mod wait;

use std::{future::Future, sync::Arc, time::Duration};

pub use config::{BadConfig, Config};
use shared::{
    db::{self, DbError},
    ops::{Check, Ops},
    ready::Ready,
    shutdown::Tasks,
};
use state::AppState;
use tokio::net::TcpListener;

/// Why the API did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be served with.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// Postgres cannot be used.
    #[error("Postgres is not usable")]
    Postgres(#[source] DbError),
    /// An address cannot be bound.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ready file cannot be written, or the signal handlers cannot be installed.
    #[error("cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Two metrics with one name.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// The OpenAPI 3.1 description of the whole surface, as served at `/openapi.json`.
pub fn openapi() -> serde_json::Value {
    openapi::document(router::documented().split_for_parts().1)
}

/// Serves until `stop` resolves, then lets open requests end.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, stop: impl Future<Output = std::io::Result<()>>) -> Result<(), RunError> {
    let token = config.token()?;
    let tasks = Tasks::new();
    let pool = db::pool(&config.stores, "modelyard-api").map_err(|error| match error {
        DbError::BadUrl(_) => RunError::Config(BadConfig::StoreUrl(Box::new(error))),
        other => RunError::Postgres(other),
    })?;
    db::wait_until_usable(&pool, config.store_wait).await.map_err(RunError::Postgres)?;
    let registry = shared::ops::registry("api")?;
    let state = AppState::new(&config, token, pool, &registry, &tasks)?;

    let (listen, listen_address) = bind(config.listen).await?;
    let ops = Ops { registry, checks: vec![("postgres", postgres_check(&state))] };
    let ops_address = shared::ops::serve(ops, config.ops_listen, &tasks)
        .await
        .map_err(|source| RunError::Listen { address: config.ops_listen, source })?;
    let server = server::Server::new(listen, router::service(state), config.max_connections);
    let serving = tasks.spawn("http", server.serve(tasks.token().clone(), config.drain_grace));
    if let Some(path) = &config.ready_file {
        Ready::this_process(Some(listen_address), ops_address)
            .write(path)
            .map_err(|source| RunError::System { doing: "write the ready file", source })?;
    }
    tracing::info!(listen = %listen_address, ops = %ops_address, "serving");
    stop.await.map_err(|source| RunError::System { doing: "wait for signals", source })?;
    tracing::info!("stopping");
    tasks.stop();
    if serving.await.is_err() || !tasks.stop_and_wait(Duration::from_secs(2)).await {
        tracing::warn!("some tasks did not end in time");
    }
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: std::net::SocketAddr) -> Result<(TcpListener, std::net::SocketAddr), RunError> {
    let listen = |source| RunError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

fn postgres_check(state: &AppState) -> Check {
    let state = state.clone();
    Arc::new(move || {
        let state = state.clone();
        Box::pin(async move { state.postgres_is_writable().await })
    })
}
