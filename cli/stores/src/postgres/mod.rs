//! A private Postgres: made once in a folder, then started, adopted, restarted, stopped.

mod create;
mod run;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Options, StoresError, binaries,
    binaries::Found,
    files,
    identity::{Life, RunAs},
    process::ProcessId,
    spawn::Spawner,
};

/// Name of the superuser and of the database that is made with the instance.
const NAME: &str = "modelyard";

/// What is recorded of an instance beside its data.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Major version that made the data.
    major: u32,
    /// Not a TCP port: part of the socket's name.
    port: u16,
    password: String,
    run_as: RunAs,
    sockets: PathBuf,
    durable: bool,
}

/// How a stop treats sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, writes everything back.
    Fast,
    /// Ends at once; the next start recovers from the log, as after a crash.
    Immediate,
}

/// A handle on a private Postgres. A detached server outlives it; a tied one ends with it.
#[derive(Debug)]
pub struct Postgres {
    home: PathBuf,
    record: Record,
    server: Found,
    options: Options,
    url: String,
    process: Option<ProcessId>,
    spawner: Spawner,
}

impl Postgres {
    /// Makes the instance in `dir/postgres` if there is none, and starts it or adopts the running server.
    ///
    /// # Errors
    /// No usable Postgres or identity, data of another major version, or a server that does not start.
    pub fn ensure(dir: &Path, options: Options) -> Result<Self, StoresError> {
        files::folder(dir, 0o711)?;
        let dir = dir.canonicalize().map_err(|source| StoresError::file("resolve", dir, source))?;
        let home = dir.join("postgres");
        let (record, server) = match create::read(&home)? {
            Some(record) => (record.clone(), server_for(&home, record.major)?),
            None => create::create(&home, options)?,
        };
        let mut postgres = Self::with(home, record, server, options)?;
        postgres.start()?;
        Ok(postgres)
    }

    /// The instance in `dir`, running or not; none when none was made. The handle never ends the server when dropped.
    ///
    /// # Errors
    /// When its record or its version's programs cannot be used.
    pub fn find(dir: &Path) -> Result<Option<Self>, StoresError> {
        let home = match dir.canonicalize() {
            Ok(dir) => dir.join("postgres"),
            Err(_) => return Ok(None),
        };
        let Some(record) = create::read(&home)? else { return Ok(None) };
        let server = server_for(&home, record.major)?;
        let options = Options { durable: record.durable, ..Options::UP };
        let mut postgres = Self::with(home, record, server, options)?;
        postgres.process = postgres.running();
        Ok(Some(postgres))
    }

    fn with(home: PathBuf, record: Record, server: Found, options: Options) -> Result<Self, StoresError> {
        let spawner = Spawner::new(options.detached).map_err(|source| StoresError::file("keep", &home, source))?;
        let url = record.url(NAME);
        Ok(Self { home, record, server, options, url, process: None, spawner })
    }

    /// URL of the database that was made with the instance; holds the password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// URL of another database of this server.
    pub fn url_of(&self, database: &str) -> String {
        self.record.url(database)
    }

    /// Pid of the server, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.filter(|process| process.alive()).map(|process| process.pid)
    }

    /// Version of the server program.
    pub fn version(&self) -> &str {
        &self.server.version
    }

    /// As whom the server runs.
    pub fn run_as(&self) -> &RunAs {
        &self.record.run_as
    }

    /// Stops the server and removes its socket folder, which may be outside of the store's folder. The data stays.
    ///
    /// # Errors
    /// When the server does not end or the folder cannot be removed.
    pub fn retire(&mut self) -> Result<(), StoresError> {
        self.stop(StopMode::Fast)?;
        files::remove_socket_folder(&self.record.sockets)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn life(&self) -> Life {
        if self.options.detached { Life::Session } else { Life::Parent("INT") }
    }
}

impl Record {
    fn url(&self, database: &str) -> String {
        let host = encode(&self.sockets.to_string_lossy());
        format!("postgres://{NAME}:{}@localhost/{database}?host={host}&port={}", self.password, self.port)
    }
}

/// Percent-encodes what is not plainly allowed in a URL's query.
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The installed server of the major version that made the data.
fn server_for(home: &Path, major: u32) -> Result<Found, StoresError> {
    let installed = binaries::all_postgres();
    let versions = installed.iter().map(|found| found.major).collect();
    installed.into_iter().find(|found| found.major == major).ok_or_else(|| StoresError::OtherMajor {
        data: home.join("data"),
        data_major: major,
        installed: versions,
    })
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if !self.options.detached
            && let Err(error) =
                self.stop(StopMode::Immediate).and_then(|()| files::remove_socket_folder(&self.record.sockets))
        {
            tracing::warn!(%error, "a private Postgres outlives its handle");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_folders_are_encoded_in_urls() {
        assert_eq!(encode("/tmp/a b&c"), "/tmp/a%20b%26c");
    }
}
