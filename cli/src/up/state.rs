//! The state folder: a marker that says it is ours, one lock, small JSON records, logs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Serialize, de::DeserializeOwned};
use shared::error::ErrorCode;

use crate::error::CliError;

const MARKER: &str = ".modelyard-state";

/// A state folder that is ours.
#[derive(Debug)]
pub(super) struct State {
    dir: PathBuf,
}

/// Held while something changes the farm of this folder.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl State {
    /// Opens the folder, or makes it; a folder with other contents is refused.
    pub(super) fn open_or_make(dir: &Path) -> Result<Self, CliError> {
        if let Some(state) = Self::open_existing(dir)? {
            return Ok(state);
        }
        let state = Self { dir: dir.to_path_buf() };
        let make = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
            for name in ["logs", "run"] {
                fs::create_dir_all(dir.join(name))?;
                fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o700))?;
            }
            fs::write(dir.join(MARKER), "State of a farm that `modelyard up` started.\n")
        };
        make().map_err(|error| cannot("make", dir, &error))?;
        Ok(state)
    }

    /// Opens the folder; none when there is none or it is empty.
    pub(super) fn open_existing(dir: &Path) -> Result<Option<Self>, CliError> {
        if dir.join(MARKER).is_file() {
            return Ok(Some(Self { dir: dir.to_path_buf() }));
        }
        match fs::read_dir(dir).map(|entries| entries.count()) {
            Ok(0) => Ok(None),
            Ok(_) => Err(CliError::failed(
                ErrorCode::Conflict,
                format!("{} is not a state folder of modelyard and not empty", dir.display()),
            )
            .hint("name another folder with --state DIR")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("read", dir, &error)),
        }
    }

    /// Takes the folder's lock, or says who has it.
    pub(super) fn lock(&self) -> Result<Lock, CliError> {
        let path = self.dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| cannot("open", &path, &error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            // without a pid in it the message is merely shorter
            let _ = file.read_to_string(&mut holder);
            let who = if holder.trim().is_empty() { String::new() } else { format!(" (pid {})", holder.trim()) };
            let message = format!("another `modelyard up` or `down`{who} is at work in {}", self.dir.display());
            return Err(CliError::failed(ErrorCode::Conflict, message).hint("wait for it, or use another --state DIR"));
        }
        // the pid is for people who read the message above; the lock works without it
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    pub(super) fn run_file(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(name)
    }

    /// A record; none while there is none.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, CliError> {
        let path = self.run_file(name);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                CliError::failed(ErrorCode::Corrupt, format!("{} is not readable: {error}", path.display()))
                    .hint("remove that file; it is made again")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("read", &path, &error)),
        }
    }

    /// Writes a record as a whole or not at all.
    pub(super) fn write<T: Serialize>(&self, name: &str, record: &T) -> Result<(), CliError> {
        let path = self.run_file(name);
        let part = self.run_file(&format!("{name}.part"));
        let text = serde_json::to_vec_pretty(record)?;
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(|error| cannot("write", &path, &error))
    }

    /// Removes a record if it is there.
    pub(super) fn forget(&self, name: &str) -> Result<(), CliError> {
        let path = self.run_file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Deletes the folder with everything in it.
    pub(super) fn delete(self) -> Result<(), CliError> {
        fs::remove_dir_all(&self.dir).map_err(|error| cannot("delete", &self.dir, &error))
    }
}

/// A file operation that failed.
pub(super) fn cannot(action: &str, path: &Path, error: &io::Error) -> CliError {
    let failure = CliError::failed(ErrorCode::Internal, format!("cannot {action} {}: {error}", path.display()));
    if error.kind() == io::ErrorKind::PermissionDenied {
        return failure.hint("use a folder of your own with --state DIR");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_else_is_refused_and_an_empty_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let foreign = folder.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), "x").unwrap();
        assert_eq!(State::open_or_make(&foreign).unwrap_err().code(), ErrorCode::Conflict);
        assert!(foreign.join("thesis.txt").exists());

        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(State::open_existing(&empty).unwrap().is_none());
        State::open_or_make(&empty).unwrap();
        assert!(State::open_existing(&empty).unwrap().is_some());
    }

    #[test]
    fn a_second_lock_says_who_has_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open_or_make(&folder.path().join("s")).unwrap();
        let lock = state.lock().unwrap();
        let error = state.lock().unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn records_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open_or_make(&folder.path().join("s")).unwrap();
        assert_eq!(state.read::<Vec<u8>>("x.json").unwrap(), None);
        state.write("x.json", &vec![1u8]).unwrap();
        assert_eq!(state.read::<Vec<u8>>("x.json").unwrap(), Some(vec![1]));
        state.forget("x.json").unwrap();
        state.forget("x.json").unwrap();
    }
}
