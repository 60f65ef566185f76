//! One real process: started in a group of its own, tied to the test's thread, its output kept in a file.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait_for;

/// Lines of a log that a failed test shows.
const TAIL_LINES: usize = 60;

/// The clock that a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clock {
    /// The machine's.
    True,
    /// The machine's, moved by this, e.g. `+1h` (libfaketime's notation); the monotonic clock stays true.
    Moved(&'static str),
}

/// The preload library that moves clocks, if it is installed.
pub fn libfaketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

/// A running program of the product.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with only this environment (and the search path). It is killed when the calling thread ends.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
        clock: &Clock,
        log: &Path,
    ) -> Self {
        let open =
            |path: &Path| fs::OpenOptions::new().create(true).append(true).open(path).expect("a log can be opened");
        let (errors, output) = (open(log), open(&output_beside(log)));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        command.env_clear().env("RUST_BACKTRACE", "1").envs(environment.iter().map(|(key, value)| (key, value)));
        // the search path is how programs are found, not configuration
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        if let Clock::Moved(by) = clock {
            command.env("LD_PRELOAD", libfaketime().expect("the test has looked for libfaketime"));
            command.env("FAKETIME", by).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name: name.to_owned(), child, log: log.to_path_buf(), status: None }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its standard error, where daemons log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it wrote to its standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(output_beside(&self.log)).unwrap_or_default()
    }

    /// Its exit status, once it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be asked for its status");
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < until, "{} did not end within {patience:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            send(self.pid(), signal);
        }
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended(Duration::from_secs(10)).await;
    }

    /// SIGSTOP, and waits until every thread has stopped.
    pub async fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        wait_for("a process to stop", Duration::from_secs(10), || async move {
            let state = state_of(pid);
            if state == Some('T') { Ok(()) } else { Err(format!("{state:?}")) }
        })
        .await;
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }
}

fn output_beside(log: &Path) -> PathBuf {
    log.with_extension("out")
}

/// SIGKILL to a process that may have ended already.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal to a process that may have ended already.
pub fn signal(pid: u32, signal: Signal) {
    send(pid, signal);
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // it may be gone, which is what most signals are for
        let _ = kill_process(pid, signal);
    }
}

fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Living children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("/proc is there").filter_map(Result::ok);
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let living = |pid: &u32| parent_of(*pid) == Some(parent) && !matches!(state_of(*pid), None | Some('Z' | 'X'));
    pids.filter(living).collect()
}

/// Living children of `parent` with this argument on their command line.
pub fn children_named(parent: u32, word: &str) -> Vec<u32> {
    let named = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    children(parent).into_iter().filter(named).collect()
}

#[expect(clippy::print_stderr, reason = "a failed test shows what its processes said")]
fn show(name: &str, log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    eprintln!("──── last words of {name} ────\n{}", tail.join("\n"));
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show(&self.name, &self.log());
        }
        if self.exited().is_none() {
            if let Some(group) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
                // gone between the look and the signal is as good
                let _ = kill_process_group(group, Signal::KILL);
            }
            // a child of ours that was killed can only end
            let _ = self.child.wait();
        }
    }
}
