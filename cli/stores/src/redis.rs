//! A private Redis or Valkey: nothing on disk but its configuration; started, adopted, stopped.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    Options, StoresError,
    binaries::{Found, find_redis},
    files,
    identity::{Life, RunAs},
    postgres::encode,
    process::{ProcessId, tail},
    spawn::Spawner,
};

const USER: &str = "modelyard";
const START_PATIENCE: Duration = Duration::from_secs(15);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// What is recorded of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    password: String,
    run_as: RunAs,
    sockets: PathBuf,
    process: Option<ProcessId>,
}

/// A handle on a private Redis. A detached server outlives it; a tied one ends with it.
#[derive(Debug)]
pub struct Redis {
    home: PathBuf,
    record: Record,
    options: Options,
    url: String,
    spawner: Spawner,
}

impl Redis {
    /// Makes the instance in `dir/redis` if there is none, and starts it or adopts the running server.
    ///
    /// # Errors
    /// No server program, no usable identity, or a server that does not start.
    pub fn ensure(dir: &Path, options: Options) -> Result<Self, StoresError> {
        files::folder(dir, 0o711)?;
        let dir = dir.canonicalize().map_err(|source| StoresError::file("resolve", dir, source))?;
        let home = dir.join("redis");
        let record = match files::read_record(&home.join("instance.json"))? {
            Some(record) => record,
            None => create(&home)?,
        };
        let mut redis = Self::with(home, record, options)?;
        redis.start()?;
        Ok(redis)
    }

    /// The instance in `dir`, running or not; none when none was made. The handle never ends the server when dropped.
    ///
    /// # Errors
    /// When its record cannot be read.
    pub fn find(dir: &Path) -> Result<Option<Self>, StoresError> {
        let home = match dir.canonicalize() {
            Ok(dir) => dir.join("redis"),
            Err(_) => return Ok(None),
        };
        let Some(record) = files::read_record(&home.join("instance.json"))? else { return Ok(None) };
        Self::with(home, record, Options::UP).map(Some)
    }

    fn with(home: PathBuf, record: Record, options: Options) -> Result<Self, StoresError> {
        let spawner = Spawner::new(options.detached).map_err(|source| StoresError::file("keep", &home, source))?;
        let url =
            format!("redis+unix://{}?user={USER}&pass={}", encode(&record.socket().to_string_lossy()), record.password);
        Ok(Self { home, record, options, url, spawner })
    }

    /// Its URL; holds the password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Pid of the server, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.record.process.filter(|process| process.alive()).map(|process| process.pid)
    }

    /// Starts the server, or adopts it when it runs. It starts empty.
    ///
    /// # Errors
    /// When it does not answer, with the last lines of its log.
    pub fn start(&mut self) -> Result<(), StoresError> {
        if self.pid().is_none() {
            let server = find_redis()?;
            self.record.process = self.spawn(&server)?;
            files::write_record(&self.home.join("instance.json"), &self.record)?;
        }
        self.wait_ready()
    }

    /// Stops the server and waits; nothing to do when it does not run.
    ///
    /// # Errors
    /// [`StoresError::DoesNotEnd`].
    pub fn stop(&mut self) -> Result<(), StoresError> {
        self.end(&[Signal::TERM, Signal::KILL])
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// [`StoresError::DoesNotEnd`].
    pub fn kill(&mut self) -> Result<(), StoresError> {
        self.end(&[Signal::KILL])
    }

    /// Stops the server and removes its socket folder, which may be outside of the store's folder.
    ///
    /// # Errors
    /// When the server does not end or the folder cannot be removed.
    pub fn retire(&mut self) -> Result<(), StoresError> {
        self.stop()?;
        files::remove_socket_folder(&self.record.sockets)
    }

    fn end(&mut self, signals: &[Signal]) -> Result<(), StoresError> {
        let Some(process) = self.record.process.filter(|process| process.alive()) else { return Ok(()) };
        for signal in signals {
            process.signal(*signal);
            if process.wait_end(STOP_PATIENCE) {
                return Ok(());
            }
            tracing::warn!(pid = process.pid, ?signal, "Redis did not end in time");
        }
        Err(StoresError::DoesNotEnd { program: "redis", pid: process.pid })
    }

    fn spawn(&self, server: &Found) -> Result<Option<ProcessId>, StoresError> {
        let Record { run_as, sockets, .. } = &self.record;
        files::make_socket_folder(sockets)?;
        run_as.own(sockets)?;
        let config = self.home.join("redis.conf");
        files::write_private(&config, self.config().as_bytes())?;
        run_as.own(&config)?;
        let log = self.log();
        let stdout = std::fs::File::create(&log).map_err(|source| StoresError::file("open", &log, source))?;
        let stderr = stdout.try_clone().map_err(|source| StoresError::file("open", &log, source))?;
        let life = if self.options.detached { Life::Session } else { Life::Parent("TERM") };
        let mut command = run_as.command(&server.program, life);
        command.arg(&config).current_dir("/").stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        self.spawner.spawn(command).map_err(|source| StoresError::Program {
            program: "redis-server".to_owned(),
            tail: String::new(),
            source: Some(source),
        })
    }

    /// Memory only, our keys only, no scripting: scripts and administration are where its vulnerabilities were.
    fn config(&self) -> String {
        let Record { password, .. } = &self.record;
        let socket = self.record.socket();
        let Options { redis_memory: (limit, policy), redis_commands: more, .. } = self.options;
        format!(
            "port 0\nunixsocket \"{}\"\nunixsocketperm 700\ndaemonize no\nsave \"\"\nappendonly no\ndir /\n\
             loglevel notice\nmaxmemory {limit}\nmaxmemory-policy {policy}\nuser default off\n\
             user {USER} on >{password} ~modelyard:* &modelyard:* +@all -@dangerous -@scripting {more}\n",
            socket.display()
        )
    }

    /// Any answer, a refusal too, says that it serves.
    fn wait_ready(&self) -> Result<(), StoresError> {
        let deadline = Instant::now() + START_PATIENCE;
        let not_ready = |what: String| StoresError::NotReady { program: "redis", what, tail: tail(&self.log(), 8) };
        loop {
            if answers(&self.record.socket()) {
                return Ok(());
            }
            if self.pid().is_none() {
                return Err(not_ready("ended while starting".to_owned()));
            }
            if Instant::now() >= deadline {
                return Err(not_ready(format!("does not answer after {} s", START_PATIENCE.as_secs())));
            }
            std::thread::sleep(POLL);
        }
    }

    fn log(&self) -> PathBuf {
        self.home.join("redis.log")
    }
}

impl Record {
    fn socket(&self) -> PathBuf {
        self.sockets.join("redis.sock")
    }
}

fn create(home: &Path) -> Result<Record, StoresError> {
    files::folder(home, 0o711)?;
    let record = Record {
        password: files::random_hex(24)?,
        run_as: RunAs::choose(home, &["redis", "valkey", "nobody"])?,
        sockets: files::socket_folder(home, "redis.sock")?,
        process: None,
    };
    files::write_record(&home.join("instance.json"), &record)?;
    Ok(record)
}

fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        stream.read(&mut [0; 64])
    };
    ask().is_ok_and(|bytes| bytes > 0)
}

impl Drop for Redis {
    fn drop(&mut self) {
        if !self.options.detached
            && let Err(error) = self.retire()
        {
            tracing::warn!(%error, "a private Redis outlives its handle");
        }
    }
}
