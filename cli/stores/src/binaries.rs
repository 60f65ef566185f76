//! Finds the server programs: distribution folders first (highest version), then the search path.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::StoresError;

/// Oldest Postgres that the schema works with.
pub const MIN_POSTGRES_MAJOR: u32 = 14;

/// A server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Full path of the program.
    pub program: PathBuf,
    /// Version as it says itself, e.g. `15.20`.
    pub version: String,
    /// First number of the version.
    pub major: u32,
}

impl Found {
    fn ask(program: PathBuf) -> Option<Self> {
        let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output().ok()?;
        let version = version_in(&String::from_utf8_lossy(&output.stdout))?;
        let major = version.split('.').next()?.parse().ok()?;
        Some(Self { program, version, major })
    }

    /// A sibling program, e.g. `initdb` beside `postgres`.
    pub(crate) fn sibling(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }
}

/// `postgres (PostgreSQL) 15.20 (Debian …)` → `15.20`; `Redis server v=7.0.15 sha=…` → `7.0.15`.
fn version_in(text: &str) -> Option<String> {
    let word = |word: &str| {
        let word = word.strip_prefix("v=").unwrap_or(word);
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        word.get(..end).filter(|version| version.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
    };
    text.split_whitespace().find_map(word)
}

/// Every usable Postgres, newest first.
pub(crate) fn all_postgres() -> Vec<Found> {
    let mut folders = versioned_folders("/usr/lib/postgresql");
    folders.extend(versioned_folders("/usr/pgsql"));
    folders.extend(search_path());
    let mut found: Vec<Found> = folders
        .into_iter()
        .filter(|bin| bin.join("initdb").is_file())
        .map(|bin| bin.join("postgres"))
        .filter(|program| program.is_file())
        .filter_map(Found::ask)
        .collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.major));
    found
}

fn versioned_folders(parent: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.path().join("bin")).collect()
}

fn search_path() -> Vec<PathBuf> {
    // the search path is how programs are found, not configuration of ours
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    // an ordinary user's path often lacks the folder that servers are installed in
    folders.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders
}

/// The newest Postgres server, or the one of exactly this major when given.
///
/// # Errors
/// [`StoresError::NotInstalled`], [`StoresError::TooOld`].
pub fn find_postgres() -> Result<Found, StoresError> {
    let Some(newest) = all_postgres().into_iter().next() else {
        return Err(StoresError::NotInstalled {
            program: "postgres",
            package: "postgresql",
            looked: vec!["/usr/lib/postgresql/*/bin".to_owned(), "PATH".to_owned()],
        });
    };
    if newest.major < MIN_POSTGRES_MAJOR {
        let bin = newest.program.parent().map(Path::to_path_buf).unwrap_or_default();
        return Err(StoresError::TooOld { found: newest.major, minimum: MIN_POSTGRES_MAJOR, bin });
    }
    Ok(newest)
}

/// A Redis or Valkey server.
///
/// # Errors
/// [`StoresError::NotInstalled`].
pub fn find_redis() -> Result<Found, StoresError> {
    let folders = search_path();
    let program = |name: &'static str| folders.iter().map(move |folder| folder.join(name)).find(|path| path.is_file());
    ["redis-server", "valkey-server"].into_iter().filter_map(program).find_map(Found::ask).ok_or_else(|| {
        StoresError::NotInstalled {
            program: "redis-server or valkey-server",
            package: "redis-server",
            looked: vec!["PATH".to_owned()],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        for (text, version) in [
            ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", "15.20"),
            ("postgres (PostgreSQL) 18beta1", "18"),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "7.0.15"),
            ("Valkey server v=8.1.1 sha=00000000:0", "8.1.1"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("no version"), None);
    }
}
