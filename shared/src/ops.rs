//! The operations listener that every daemon has: `/livez`, `/readyz`, `/metrics`, apart from the public API.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::shutdown::Tasks;

/// One named readiness check: `Err` says why not.
pub type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// What the listener serves.
#[derive(Clone)]
pub struct Ops {
    /// The process's metrics.
    pub registry: Registry,
    /// Named readiness checks.
    pub checks: Vec<(&'static str, Check)>,
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ops")
            .field("checks", &self.checks.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Ops {
    /// Runs all checks; the failed ones with their reasons.
    pub async fn unready(&self) -> Vec<(&'static str, String)> {
        let mut failed = Vec::new();
        for (name, check) in &self.checks {
            if let Err(reason) = check().await {
                failed.push((*name, reason));
            }
        }
        failed
    }

    /// The routes, also mounted by the API beside its own.
    pub fn health_routes(self) -> Router {
        Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(self)
    }

    fn all_routes(self) -> Router {
        Router::new().route("/metrics", get(metrics)).with_state(self.clone()).merge(self.health_routes())
    }
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let failed = ops.unready().await;
    if failed.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = failed.iter().map(|(name, reason)| format!("{name}: {reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&ops.registry.gather(), &mut text) {
        // Prometheus 3 refuses a scrape without the exact content type
        Ok(()) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Binds and serves until the process stops; the bound address is returned, so that port 0 works.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(ops: Ops, listen: SocketAddr, tasks: &Tasks) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let bound = listener.local_addr()?;
    let token = tasks.token().clone();
    tasks.spawn("ops", async move {
        let stop = async move { token.cancelled().await };
        if let Err(error) = axum::serve(listener, ops.all_routes()).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the operations listener ended");
        }
    });
    Ok(bound)
}

/// A registry with build information and the process collector.
///
/// # Errors
/// Never with a fresh registry; kept because the library's signature says so.
pub fn registry(role: &'static str) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    let info = prometheus::IntGaugeVec::new(
        prometheus::Opts::new("modelyard_build_info", "Version and role of this process; always 1."),
        &["version", "role"],
    )?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1);
    registry.register(Box::new(info))?;
    Ok(registry)
}
