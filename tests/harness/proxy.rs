//! A proxy in front of Postgres' socket that can be cut: bytes stop in both directions while connections stay open,
//! as when a network drops every packet.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use tempfile::TempDir;

/// Whether bytes pass.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, closed: bool, over: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = (closed, over);
        self.changed.notify_all();
    }

    /// Waits until bytes may pass; false when the proxy is over.
    fn pass(&self) -> bool {
        let state = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.changed.wait_while(state, |(closed, over)| *closed && !*over);
        !open.unwrap_or_else(PoisonError::into_inner).1
    }
}

/// The proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    gate: Arc<Gate>,
    _folder: TempDir,
}

impl Proxy {
    /// Stands in front of the server of this URL (`…?host=FOLDER&port=N`).
    ///
    /// # Panics
    /// When the URL has another form or the socket cannot be made.
    pub fn to(url: &str) -> Self {
        let (base, query) = url.split_once('?').expect("a socket URL has a query");
        let value = |key: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            pair.unwrap_or_else(|| panic!("{key} in {query}")).to_owned()
        };
        let (host, port) = (value("host"), value("port"));
        let folder = tempfile::Builder::new().prefix("modelyard-proxy-").tempdir().expect("a temporary folder");
        let name = format!(".s.PGSQL.{port}");
        let listener = UnixListener::bind(folder.path().join(&name)).expect("a proxy socket");
        let gate = Arc::new(Gate::default());
        accept(listener, Path::new(&host).join(&name), gate.clone());
        let url = format!("{base}?host={}&port={port}", folder.path().display());
        Self { url, gate, _folder: folder }
    }

    /// URL of the proxy.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Stops all bytes.
    pub fn cut(&self) {
        self.gate.set(true, false);
    }

    /// Lets bytes pass again, those that waited too.
    pub fn heal(&self) {
        self.gate.set(false, false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.set(false, true);
    }
}

fn accept(listener: UnixListener, server: PathBuf, gate: Arc<Gate>) {
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            if !gate.pass() {
                return;
            }
            // a server that is down closes the client's connection, as it would without a proxy
            let Ok(upstream) = UnixStream::connect(&server) else { continue };
            let pair = client.try_clone().and_then(|client| Ok((client, upstream.try_clone()?)));
            let (client_again, upstream_again) = pair.expect("sockets can be copied");
            pump(client, upstream, gate.clone());
            pump(upstream_again, client_again, gate.clone());
        }
    });
}

fn pump(mut from: UnixStream, mut to: UnixStream, gate: Arc<Gate>) {
    // the timeout lets a thread of a dropped proxy end
    from.set_read_timeout(Some(Duration::from_secs(1))).expect("a read timeout");
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            let read =
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                        if gate.pass() { continue } else { break }
                    }
                    Err(_) => break,
                };
            if !gate.pass() || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // either side may be closed already
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
