//! What can keep a private store from running, with the facts and what to do.

use std::{io, path::PathBuf};

use shared::error::{Classify, ErrorCode};

/// Why a store is not there.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// The server is not installed.
    #[error("no {program} on this machine: looked in {}", looked.join(", "))]
    NotInstalled {
        /// `postgres` or `redis-server`.
        program: &'static str,
        /// Debian package that has it.
        package: &'static str,
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// Only older servers are installed.
    #[error("Postgres {found} in {} is too old: {minimum} or newer is needed", bin.display())]
    TooOld {
        /// Major found.
        found: u32,
        /// Oldest major that works.
        minimum: u32,
        /// Where.
        bin: PathBuf,
    },
    /// The data folder belongs to another major version.
    #[error("the data in {} was made by Postgres {data_major}, but only {} is installed", data.display(), installed_list(installed))]
    OtherMajor {
        /// The data folder.
        data: PathBuf,
        /// Its version.
        data_major: u32,
        /// Versions found.
        installed: Vec<u32>,
    },
    /// Postgres refuses to run as root and no other identity can be used.
    #[error("Postgres does not run as root, and {reason}")]
    NoIdentity {
        /// What was tried.
        reason: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be run or failed.
    #[error("{program} failed{}", tail_of(tail))]
    Program {
        /// Which.
        program: String,
        /// Its last words.
        tail: String,
        /// Why it could not even be run.
        #[source]
        source: Option<io::Error>,
    },
    /// The server did not become ready.
    #[error("{program} {what}{}", tail_of(tail))]
    NotReady {
        /// Which.
        program: &'static str,
        /// `ended while starting`, `did not answer within 30 s`, ….
        what: String,
        /// The last lines of its log.
        tail: String,
    },
    /// The server runs on although it was told to end.
    #[error("{program} (pid {pid}) does not end")]
    DoesNotEnd {
        /// Which.
        program: &'static str,
        /// Its pid.
        pid: u32,
    },
    /// The recorded description of an instance cannot be read.
    #[error("{} is not a description of a private store", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn installed_list(installed: &[u32]) -> String {
    if installed.is_empty() {
        return "no version".to_owned();
    }
    installed.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn tail_of(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!(":\n{tail}") }
}

impl StoresError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }
}

impl Classify for StoresError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::OtherMajor { .. } | Self::TooOld { .. } | Self::BadRecord { .. } => ErrorCode::Unsupported,
            _ => ErrorCode::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled { package, .. } => Some(format!("apt-get install {package}")),
            Self::TooOld { .. } => Some("install a newer `postgresql` package".to_owned()),
            Self::OtherMajor { data, data_major, installed } => Some(upgrade_hint(data, *data_major, installed)),
            Self::NoIdentity { .. } => Some(
                "create the user `postgres` (package postgresql) and use a state folder that it can enter, \
                 e.g. below /var/lib or /tmp"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

fn upgrade_hint(data: &std::path::Path, data_major: u32, installed: &[u32]) -> String {
    let data = data.display();
    match installed.iter().max() {
        Some(new) if *new > data_major => format!(
            "install postgresql-{data_major}, or move {data} aside, let a new folder be made and run \
             `pg_upgrade -b /usr/lib/postgresql/{data_major}/bin -B /usr/lib/postgresql/{new}/bin -d OLD -D {data}`"
        ),
        _ => format!("install postgresql-{data_major}"),
    }
}
