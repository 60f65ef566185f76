//! One background process: started in a session of its own, recorded, found again, replaced when it should differ.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use private_stores::process::{ProcessId, tail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use shared::{error::ErrorCode, ready::Ready};
use tokio::time::Instant;

use super::state::{State, cannot};
use crate::error::CliError;

const READY_PATIENCE: Duration = Duration::from_secs(60);
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// A log this long is set aside at the next start.
const LOG_LIMIT: u64 = 16 << 20;

/// A process that should run.
#[derive(Debug)]
pub(super) struct Wanted {
    /// `api`, `scheduler` or `agent`.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Set in its environment: URLs with passwords do not belong on a command line.
    pub(super) environment: Vec<(&'static str, Option<String>)>,
    /// Ends when the thread that started it does.
    pub(super) tied: bool,
}

/// What is recorded of a process that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) process: ProcessId,
    /// Digest of program, arguments and environment: another one means another process is wanted.
    fingerprint: String,
    pub(super) started_at: chrono::DateTime<chrono::Utc>,
}

/// How a process came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Came {
    /// It ran already, as wanted.
    Reused,
    /// It did not run.
    Started,
    /// It ran with other arguments or another program.
    Replaced,
}

impl Record {
    pub(super) fn find(state: &State, name: &str) -> Result<Option<Self>, CliError> {
        state.read(&format!("{name}.json"))
    }

    pub(super) fn alive(&self) -> bool {
        self.process.alive()
    }
}

impl Wanted {
    /// Makes it run and waits until it serves.
    pub(super) async fn ensure(&self, state: &State) -> Result<(Ready, Came), CliError> {
        let fingerprint = self.fingerprint()?;
        let running = Record::find(state, self.name)?.filter(Record::alive);
        let came = match running {
            Some(record) if record.fingerprint == fingerprint => {
                let ready = self.wait_ready(state, record.process).await?;
                return Ok((ready, Came::Reused));
            }
            Some(record) => {
                stop(record.process, super::stop::GRACE)?;
                Came::Replaced
            }
            None => Came::Started,
        };
        let process = self.start(state)?;
        let record = Record { process, fingerprint, started_at: chrono::Utc::now() };
        state.write(&format!("{}.json", self.name), &record)?;
        Ok((self.wait_ready(state, process).await?, came))
    }

    fn fingerprint(&self) -> Result<String, CliError> {
        let meta = fs::metadata(&self.program).map_err(|error| missing(&self.program, &error))?;
        let modified = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {} {modified:?}", self.program, meta.len()).as_bytes());
        hasher.update(format!("{:?} {:?}", self.arguments, self.environment).as_bytes());
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn start(&self, state: &State) -> Result<ProcessId, CliError> {
        state.forget(&self.ready_name())?;
        let log = state.log(self.name);
        rotate(&log)?;
        let open = OpenOptions::new().create(true).append(true).open(&log);
        let stdout = open.map_err(|error| cannot("open", &log, &error))?;
        let stderr = stdout.try_clone().map_err(|error| cannot("open", &log, &error))?;
        let mut command = Command::new("setsid");
        if self.tied {
            command.args(["setpriv", "--pdeathsig", "TERM"]);
        }
        command.arg(&self.program).args(&self.arguments).arg("--ready-file").arg(state.run_file(&self.ready_name()));
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().map_err(|error| missing(&self.program, &error))?;
        ProcessId::of(child.id()).ok_or_else(|| self.ended(state))
    }

    /// The process writes the ready file once it serves; one of an earlier process does not count.
    async fn wait_ready(&self, state: &State, process: ProcessId) -> Result<Ready, CliError> {
        let path = state.run_file(&self.ready_name());
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            match Ready::read(&path) {
                Ok(Some(ready)) if ready.pid == process.pid => return Ok(ready),
                Ok(_) => {}
                Err(error) => return Err(cannot("read", &path, &error)),
            }
            if !process.alive() {
                return Err(self.ended(state));
            }
            if Instant::now() >= deadline {
                let seconds = READY_PATIENCE.as_secs();
                return Err(self.failed(state, &format!("does not serve after {seconds} s")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn ended(&self, state: &State) -> CliError {
        self.failed(state, "ended while starting")
    }

    fn failed(&self, state: &State, what: &str) -> CliError {
        let log = state.log(self.name);
        let message = format!("the {} {what}; the end of {}:\n{}", self.name, log.display(), tail(&log, 12));
        CliError::failed(ErrorCode::Unavailable, message)
    }

    fn ready_name(&self) -> String {
        format!("{}.ready.json", self.name)
    }
}

/// SIGTERM, then after `grace` SIGKILL; true when the polite way was enough.
pub(super) fn stop(process: ProcessId, grace: Duration) -> Result<bool, CliError> {
    process.signal(Signal::TERM);
    if process.wait_end(grace) {
        return Ok(true);
    }
    process.signal(Signal::KILL);
    if process.wait_end(KILL_PATIENCE) {
        return Ok(false);
    }
    Err(CliError::failed(ErrorCode::Internal, format!("process {} does not end", process.pid)))
}

fn missing(program: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(ErrorCode::NotFound, format!("cannot run {}: {error}", program.display()))
        .hint("build all four programs into one folder: `cargo build --release --bins`")
}

fn rotate(log: &Path) -> Result<(), CliError> {
    let long = fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_LIMIT);
    if long {
        fs::rename(log, log.with_extension("log.1")).map_err(|error| cannot("set aside", log, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that writes its ready file as a daemon does and then waits for a signal.
    fn wanted(folder: &Path, arguments: &[&str]) -> Wanted {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join("daemon");
        let script = "#!/bin/sh\nfor last; do :; done\n[ \"$1\" = fail ] && { echo broken on purpose >&2; exit 7; }\n\
                      echo '{\"pid\":'$$',\"listen\":null,\"ops\":\"http://x\"}' > \"$last.part\"\n\
                      mv \"$last.part\" \"$last\"\nexec sleep 60\n";
        if !program.exists() {
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let arguments = arguments.iter().map(OsString::from).collect();
        Wanted { name: "agent", program, arguments, environment: Vec::new(), tied: false }
    }

    #[tokio::test]
    async fn a_daemon_is_reused_while_it_is_what_is_wanted_and_replaced_when_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open_or_make(&folder.path().join("s")).unwrap();
        let (first, came) = wanted(folder.path(), &["a"]).ensure(&state).await.unwrap();
        assert_eq!(came, Came::Started);
        let (second, came) = wanted(folder.path(), &["a"]).ensure(&state).await.unwrap();
        assert_eq!((second.pid, came), (first.pid, Came::Reused));
        let (third, came) = wanted(folder.path(), &["b"]).ensure(&state).await.unwrap();
        assert_eq!(came, Came::Replaced);
        assert_ne!(third.pid, first.pid);
        let record = Record::find(&state, "agent").unwrap().unwrap();
        assert!(stop(record.process, Duration::from_secs(10)).unwrap());
        assert!(!record.alive());
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_start_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open_or_make(&folder.path().join("s")).unwrap();
        let error = wanted(folder.path(), &["fail"]).ensure(&state).await.unwrap_err();
        assert!(error.to_string().contains("broken on purpose"), "{error}");
    }
}
