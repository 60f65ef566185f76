//! The accept loop: bounded connections, a limit on the time for request heads, a stop that lets open requests end.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Longest time for a request's head, and for an idle kept-alive connection.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves one listener.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    router: Router,
    slots: Arc<Semaphore>,
    head_patience: Duration,
}

impl Server {
    /// A server that holds at most `max_connections` at once.
    pub(crate) fn new(listener: TcpListener, router: Router, max_connections: usize) -> Self {
        let slots = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { listener, router, slots, head_patience: HEAD_PATIENCE }
    }

    /// Serves until `stop`; then closes the listener and gives open requests up to `grace`.
    pub(crate) async fn serve(self, stop: CancellationToken, grace: Duration) {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.accept() => match accepted {
                    Ok((stream, permit)) => self.hold(stream, permit, &graceful, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // ended connections are taken out, so that the set stays as large as the load
                Some(_) = connections.join_next() => {}
            }
        }
        drop(self.listener);
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!(open = connections.len(), "some requests did not end in time");
        }
        connections.shutdown().await;
    }

    /// Waits for a free slot first: what cannot be served stays in the listen queue.
    async fn accept(&self) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, permit))
    }

    fn hold(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        // small answers should not wait for more
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_patience)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use shared::shutdown::Tasks;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
    };

    use super::*;

    #[tokio::test]
    async fn a_stop_lets_an_open_request_end_and_takes_no_new_one() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inner_entered, inner_release) = (entered.clone(), release.clone());
        let router = Router::new().route(
            "/",
            get(|| async move {
                inner_entered.notify_one();
                inner_release.notified().await;
                "done"
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let server = Server::new(listener, router, 8).serve(tasks.token().clone(), Duration::from_secs(60));
        let serving = tasks.spawn("http", server);
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        entered.notified().await;
        tasks.stop();
        release.notify_one();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done"), "{answer}");
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let server = Server { head_patience: Duration::from_millis(50), ..Server::new(listener, Router::new(), 8) };
        let serving = tasks.spawn("http", server.serve(tasks.token().clone(), Duration::ZERO));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x").await.unwrap();
        let mut answer = Vec::new();
        // ends because the server closes; a server without the limit would leave us reading for ever
        let _ = client.read_to_end(&mut answer).await;
        tasks.stop();
        serving.await.unwrap();
    }
}
