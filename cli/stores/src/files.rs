//! Private folders, secrets and small records on disk.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::StoresError;

/// A unix socket's path must be shorter than this many bytes.
const SOCKET_PATH_LIMIT: usize = 107;

/// Makes a folder with its parents if it is not there, and sets its mode.
pub(crate) fn folder(path: &Path, mode: u32) -> Result<(), StoresError> {
    fs::create_dir_all(path).map_err(|source| StoresError::file("make", path, source))?;
    set_mode(path, mode)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), StoresError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| StoresError::file("set the mode of", path, source))
}

/// `len` random bytes as lower-case hexadecimal digits.
pub(crate) fn random_hex(len: usize) -> Result<String, StoresError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; len];
    fs::File::open(path)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source| StoresError::file("read", path, source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a 0600 file as a whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StoresError> {
    let part = path.with_extension("part");
    let write = || -> io::Result<()> {
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|source| StoresError::file("write", path, source))
}

/// Writes a record as JSON, 0600, atomically.
pub(crate) fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), StoresError> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|source| StoresError::BadRecord { path: path.to_path_buf(), source })?;
    write_private(path, &text)
}

/// Reads a record; none while there is none.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoresError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| StoresError::BadRecord { path: path.to_path_buf(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoresError::file("read", path, source)),
    }
}

/// Where the sockets of a store with files in `dir` go: below it, or in a short folder elsewhere when a socket named
/// `socket` would have a path that the system cannot take.
pub(crate) fn socket_folder(dir: &Path, socket: &str) -> Result<PathBuf, StoresError> {
    let below = dir.join("s");
    if below.as_os_str().len() + 1 + socket.len() <= SOCKET_PATH_LIMIT {
        return Ok(below);
    }
    Ok(std::env::temp_dir().join(format!("modelyard-{}", random_hex(8)?)))
}

/// Makes the 0700 folder of a socket if it is not there (temporary folders are emptied at boot).
pub(crate) fn make_socket_folder(path: &Path) -> Result<(), StoresError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(StoresError::file("make", path, source)),
        _ => {
            let meta = fs::symlink_metadata(path).map_err(|source| StoresError::file("look at", path, source))?;
            if meta.is_dir() {
                return set_mode(path, 0o700);
            }
            let source = io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder");
            Err(StoresError::file("use", path, source))
        }
    }
}

/// Removes the folder of a socket; it holds nothing but the socket of a server that has ended.
pub(crate) fn remove_socket_folder(path: &Path) -> Result<(), StoresError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoresError::file("remove", path, source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        assert_eq!(read_record::<Vec<u8>>(&path).unwrap(), None);
        write_record(&path, &vec![1u8, 2]).unwrap();
        assert_eq!(read_record::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_long_path_gets_a_short_socket_folder() {
        let short = socket_folder(Path::new("/tmp/x"), ".s.PGSQL.12345").unwrap();
        assert_eq!(short, Path::new("/tmp/x/s"));
        let long = socket_folder(&Path::new("/tmp").join("x".repeat(100)), ".s.PGSQL.12345").unwrap();
        assert!(long.as_os_str().len() < 60, "{long:?}");
    }
}
