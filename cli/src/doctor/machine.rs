//! Programs, folder, disk, memory, port and limits of this machine.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Resource, getrlimit};
use shared::bytes::ByteSize;

use super::Finding;

/// A farm with a small library fits.
const DISK_NEEDED: u64 = 1 << 30;
const MEMORY_NEEDED: u64 = 1 << 30;
const FILES_NEEDED: u64 = 1024;

/// The programs that `up` starts or uses.
pub(super) fn programs() -> Vec<Finding> {
    vec![daemons(), helpers()]
}

fn daemons() -> Finding {
    let folder = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf)).unwrap_or_default();
    let needed = ["modelyard-api", "modelyard-scheduler", "gpu-worker"];
    let missing: Vec<&str> = needed.into_iter().filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Finding::ok("programs", format!("all four in {}", folder.display()));
    }
    let detail = format!("no {} in {}", missing.join(", "), folder.display());
    Finding::fail("programs", detail, "cargo build --release --bins (deploy/run does it)")
}

fn helpers() -> Finding {
    let works = |name: &&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    };
    let missing: Vec<&str> = ["setsid", "setpriv", "unshare"].into_iter().filter(|name| !works(name)).collect();
    if missing.is_empty() {
        return Finding::ok("util-linux", "setsid, setpriv, unshare");
    }
    Finding::fail("util-linux", format!("no {}", missing.join(", ")), "apt-get install util-linux")
}

pub(super) fn check(state: &Path, listen: SocketAddr) -> Vec<Finding> {
    vec![folder(state), disk(state), memory(), port(state, listen), files()]
}

/// The nearest folder on the way that is there.
fn existing(state: &Path) -> PathBuf {
    state.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

fn folder(state: &Path) -> Finding {
    let place = existing(state);
    let writable = rustix::fs::access(&place, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    match writable {
        Ok(()) if place == state => Finding::ok("state folder", format!("{} is there", state.display())),
        Ok(()) => Finding::ok("state folder", format!("{} can be made", state.display())),
        Err(error) => {
            let detail = format!("cannot write in {}: {}", place.display(), io::Error::from(error));
            Finding::fail("state folder", detail, "name a folder of your own with --state DIR")
        }
    }
}

fn disk(state: &Path) -> Finding {
    let place = existing(state);
    match rustix::fs::statvfs(&place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let detail = format!("{} free in {}", ByteSize(free), place.display());
            if free >= DISK_NEEDED {
                return Finding::ok("disk", detail);
            }
            Finding::warn("disk", detail, "free some space or use another --state DIR")
        }
        Err(error) => Finding::warn("disk", format!("{}: {error}", place.display()), "check that file system"),
    }
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = field_kib(&text, "MemAvailable:") else {
        return Finding::warn("memory", "/proc/meminfo says nothing of MemAvailable", "mount /proc");
    };
    let detail = format!("{} available", ByteSize(available));
    if available >= MEMORY_NEEDED {
        return Finding::ok("memory", detail);
    }
    Finding::warn("memory", detail, "end something, or give `up` a small --ram-budget and --cpu-memory")
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn port(state: &Path, listen: SocketAddr) -> Finding {
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok("port", format!("{listen} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let ready = shared::ready::Ready::read(&state.join("run/api.ready.json")).ok().flatten();
            if ready.and_then(|ready| ready.listen) == Some(format!("http://{listen}")) {
                return Finding::ok("port", format!("{listen} is served by the farm of {}", state.display()));
            }
            Finding::warn("port", format!("{listen} is in use"), "give `up` another --listen HOST:PORT")
        }
        Err(error) => Finding::warn("port", format!("{listen}: {error}"), "give `up` another --listen HOST:PORT"),
    }
}

fn files() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < FILES_NEEDED => {
            Finding::warn("open files", format!("at most {limit}"), format!("ulimit -n {FILES_NEEDED}"))
        }
        Some(limit) => Finding::ok("open files", format!("at most {limit}")),
        None => Finding::ok("open files", "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:       10 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(field_kib(text, "MemAvailable:"), Some(2 << 20));
        assert_eq!(field_kib(text, "Nothing:"), None);
    }

    #[test]
    fn a_port_in_use_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = port(Path::new("/nonexistent"), listener.local_addr().unwrap());
        assert!(finding.detail.ends_with("is in use"), "{}", finding.detail);
    }
}
