//! Processes by pid and start time, so that a reused pid is never taken for ours; waiting for an end without polling.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde::{Deserialize, Serialize};

/// One process, told apart from later ones with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Pid.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this pid now; none when there is none or it is a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name in parentheses may hold anything; the state is the first field after it, the start time the twentieth
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let state = *fields.first()?;
        let started = fields.get(19)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, started })
    }

    /// True while this very process lives.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Its working folder, when we may know it.
    pub fn cwd(self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Sends a signal, if it still lives.
    pub fn signal(self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| self.alive()) {
            // it may end between the check and the signal, which is what was wanted
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it has ended; false when it still lives after `patience`.
    pub fn wait_end(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let pidfd = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        while self.alive() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            match &pidfd {
                Some(fd) => {
                    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
                    // an interrupted wait is simply looked at again
                    let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        true
    }
}

/// The last `lines` lines of a log; empty when there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(bytes) = std::fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_time_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.alive());
        assert!(!ProcessId { started: me.started + 1, ..me }.alive());
        assert!(!me.wait_end(Duration::ZERO));
    }

    #[test]
    fn an_ended_child_counts_as_ended_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        id.signal(Signal::TERM);
        assert!(id.wait_end(Duration::from_secs(10)));
        child.wait().unwrap();
    }

    #[test]
    fn tail_gives_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "a\nb\n\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail(&folder.path().join("none"), 2), "");
    }
}
