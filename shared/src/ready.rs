//! The ready file: how whoever started a daemon learns that it serves, and on which addresses (port 0 works).

use std::{io, net::SocketAddr, path::Path};

use serde::{Deserialize, Serialize};

/// What a daemon writes once it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Process id.
    pub pid: u32,
    /// URL of the public listener, for a daemon that has one.
    pub listen: Option<String>,
    /// URL of the operations listener.
    pub ops: String,
}

impl Ready {
    /// Describes this process.
    pub fn this_process(listen: Option<SocketAddr>, ops: SocketAddr) -> Self {
        Self {
            pid: std::process::id(),
            listen: listen.map(|address| format!("http://{address}")),
            ops: format!("http://{ops}"),
        }
    }

    /// Writes the file as a whole or not at all: readers never see half of it.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, serde_json::to_vec(self)?)?;
        std::fs::rename(&part, path)
    }

    /// Reads the file; none while it is not there.
    ///
    /// # Errors
    /// What the file system answers, or a file that is not ours.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_absence_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        assert_eq!(Ready::read(&path).unwrap(), None);
        let ready = Ready::this_process(None, "127.0.0.1:9".parse().unwrap());
        ready.write(&path).unwrap();
        assert_eq!(Ready::read(&path).unwrap(), Some(ready));
    }
}
