//! Starts, adopts, restarts and stops the server of an instance.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{Postgres, StopMode};
use crate::{
    StoresError, files,
    process::{ProcessId, tail},
};

/// Recovery after a crash may take a while; a server that says nothing for this long is stuck.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// After a SIGKILL of the server its children hold its memory and lock for some seconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

impl Postgres {
    /// Starts the server, or adopts it when it runs.
    ///
    /// # Errors
    /// When it does not become ready, with the last lines of its log.
    pub fn start(&mut self) -> Result<(), StoresError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let running = match self.running() {
                Some(process) => Some(process),
                None => self.spawn()?,
            };
            self.process = running;
            match self.wait_ready(running) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() < deadline && self.log_tells_of_a_lock() => {
                    tracing::debug!(%error, "an earlier server still holds the lock");
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops and starts. [`StopMode::Immediate`] is a crash without the kill: the log is replayed.
    ///
    /// # Errors
    /// As [`Postgres::stop`] and [`Postgres::start`].
    pub fn restart(&mut self, mode: StopMode) -> Result<(), StoresError> {
        self.stop(mode)?;
        self.start()
    }

    /// Stops the server and waits; nothing to do when it does not run. SIGKILL only after the polite ways were tried.
    ///
    /// # Errors
    /// [`StoresError::DoesNotEnd`].
    pub fn stop(&mut self, mode: StopMode) -> Result<(), StoresError> {
        let Some(process) = self.running() else { return Ok(()) };
        let polite = if mode == StopMode::Fast { Signal::INT } else { Signal::QUIT };
        for signal in [polite, Signal::QUIT, Signal::KILL] {
            process.signal(signal);
            if process.wait_end(STOP_PATIENCE) {
                self.process = None;
                return Ok(());
            }
            tracing::warn!(pid = process.pid, ?signal, "Postgres did not end in time");
        }
        Err(StoresError::DoesNotEnd { program: "postgres", pid: process.pid })
    }

    /// SIGKILL to the server process, as the kernel does when memory is gone; waits for its end.
    ///
    /// # Errors
    /// [`StoresError::DoesNotEnd`].
    pub fn kill(&mut self) -> Result<(), StoresError> {
        let Some(process) = self.running() else { return Ok(()) };
        process.signal(Signal::KILL);
        if process.wait_end(STOP_PATIENCE) {
            return Ok(());
        }
        Err(StoresError::DoesNotEnd { program: "postgres", pid: process.pid })
    }

    /// The live server of this data folder: its own pid file, checked against the process's working folder.
    pub(super) fn running(&self) -> Option<ProcessId> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let process = ProcessId::of(text.lines().next()?.trim().parse().ok()?)?;
        (process.cwd()? == self.data()).then_some(process)
    }

    fn spawn(&self) -> Result<Option<ProcessId>, StoresError> {
        files::make_socket_folder(&self.record.sockets)?;
        self.record.run_as.own(&self.record.sockets)?;
        let log = self.start_log();
        let open = OpenOptions::new().create(true).write(true).truncate(true).open(&log);
        let stdout = open.map_err(|source| StoresError::file("open", &log, source))?;
        let stderr = stdout.try_clone().map_err(|source| StoresError::file("open", &log, source))?;
        let mut command = self.record.run_as.command(&self.server.program, self.life());
        command.arg("-D").arg(self.data());
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        self.spawner.spawn(command).map_err(|source| StoresError::Program {
            program: "postgres".to_owned(),
            tail: String::new(),
            source: Some(source),
        })
    }

    /// On the command line rather than in a file: always those of this build.
    fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", self.record.sockets.display()),
            "unix_socket_permissions=0700".to_owned(),
            format!("port={}", self.record.port),
            "max_connections=200".to_owned(),
            "logging_collector=on".to_owned(),
            "log_directory=log".to_owned(),
            "log_filename=postgresql-%a.log".to_owned(),
            "log_truncate_on_rotation=on".to_owned(),
            "log_rotation_size=0".to_owned(),
        ];
        if self.options.durable {
            // what searches of 100,000 models read stays in it; memory is taken as it fills
            settings.push("shared_buffers=512MB".to_owned());
        } else {
            settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
        }
        settings
    }

    fn wait_ready(&self, started: Option<ProcessId>) -> Result<(), StoresError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if self.reports_ready() {
                return Ok(());
            }
            if !started.is_some_and(ProcessId::alive) {
                return Err(self.not_ready("ended while starting".to_owned()));
            }
            if Instant::now() >= deadline {
                return Err(self.not_ready(format!("is not ready after {} s", START_PATIENCE.as_secs())));
            }
            std::thread::sleep(POLL);
        }
    }

    /// The eighth line of its pid file is how a server says that it takes connections.
    fn reports_ready(&self) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        self.running().is_some() && text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
    }

    fn not_ready(&self, what: String) -> StoresError {
        StoresError::NotReady { program: "postgres", what, tail: self.log_tail() }
    }

    fn log_tail(&self) -> String {
        let early = tail(&self.start_log(), 8);
        let newest = fs::read_dir(self.data().join("log"))
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok());
        let later = newest.map(|entry| tail(&entry.path(), 8)).unwrap_or_default();
        if later.is_empty() { early } else { format!("{early}\n{later}") }
    }

    fn log_tells_of_a_lock(&self) -> bool {
        let text = tail(&self.start_log(), 20);
        ["lock file", "shared memory block", "is still in use"].iter().any(|words| text.contains(words))
    }

    fn start_log(&self) -> PathBuf {
        self.home.join("start.log")
    }
}
