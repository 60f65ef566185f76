//! What a job works on, as bytes in memory: an upload, an artifact of another job, or a file below a root of this host.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use shared::{
    bytes::ByteSize,
    db::{
        Session,
        blobs::{self, Blob, artifacts, uploads},
    },
    job::engine::Input,
};

use crate::{config::Root, context::Agent, error::WorkError};

/// Most bytes of one input: as many as an upload may have.
pub const INPUT_LIMIT: ByteSize = ByteSize(256 << 20);

/// Reads an input whole. Blobs are compared with their hash.
///
/// # Errors
/// [`WorkError::NoInput`] when it is not there, [`WorkError::BadInput`] when it cannot be one; errors of the database and the
/// disk.
pub async fn read(agent: &Agent, input: &Input) -> Result<Vec<u8>, WorkError> {
    if let Input::File { root, path } = input {
        let place = agent.roots.iter().find(|known| known.name == *root).cloned();
        let place = place.ok_or_else(|| WorkError::NoRoot { host: agent.host.clone(), root: root.clone() })?;
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || read_below(&place, &path, INPUT_LIMIT));
        return read.await.map_err(|error| system("reading an input", std::io::Error::other(error)))?;
    }
    let mut conn = agent.pool.acquire().await.map_err(shared::db::DbError::from)?;
    let bytes = match blob(&mut conn, input).await? {
        Some(blob) if blob.size() > INPUT_LIMIT.0 => {
            return Err(too_large(&named(input), blob.size(), INPUT_LIMIT));
        }
        Some(blob) => blobs::read(&mut conn, &blob).await?,
        None => None,
    };
    bytes.ok_or_else(|| WorkError::NoInput(named(input)))
}

async fn blob(conn: &mut Session, input: &Input) -> Result<Option<Blob>, WorkError> {
    Ok(match input {
        Input::Upload { upload } => uploads::find(conn, *upload).await?.map(|row| row.blob),
        Input::Artifact { artifact } => {
            artifacts::find(conn, artifact.job, &artifact.name).await?.filter(|row| !row.preview).map(|row| row.blob)
        }
        Input::File { .. } => None,
    })
}

/// How people call an input.
pub fn named(input: &Input) -> String {
    match input {
        Input::Upload { upload } => format!("upload `{upload}`"),
        Input::Artifact { artifact } => format!("artifact `{}` of job {}", artifact.name, artifact.job),
        Input::File { root, path } => format!("`{path}` below root `{root}`"),
    }
}

fn read_below(root: &Root, path: &str, limit: ByteSize) -> Result<Vec<u8>, WorkError> {
    let name = format!("`{path}` below root `{}`", root.name);
    let found = below(&root.path, Path::new(path)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => WorkError::NoInput(name.clone()),
        _ => system(&format!("finding {name}"), error),
    })?;
    let Some(found) = found else {
        return Err(WorkError::BadInput { input: name, why: "it leads out of the root".into() });
    };
    let io = |error| system(&format!("reading {name}"), error);
    let about = found.metadata().map_err(io)?;
    if !about.is_file() {
        return Err(WorkError::BadInput { input: name, why: "it is not a file".into() });
    }
    if about.len() > limit.0 {
        return Err(too_large(&name, about.len(), limit));
    }
    let mut bytes = Vec::new();
    // one byte more than allowed tells a file that grows
    std::fs::File::open(&found).map_err(io)?.take(limit.0.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit.0 {
        return Err(too_large(&name, bytes.len() as u64, limit));
    }
    Ok(bytes)
}

/// The file with all links followed; none when that leads out of the root.
fn below(root: &Path, path: &Path) -> std::io::Result<Option<PathBuf>> {
    let root = root.canonicalize()?;
    let found = root.join(path).canonicalize()?;
    Ok(found.starts_with(&root).then_some(found))
}

fn too_large(input: &str, bytes: u64, limit: ByteSize) -> WorkError {
    let why = format!("it has {} ({bytes} bytes), more than {limit}", ByteSize(bytes));
    WorkError::BadInput { input: input.to_owned(), why }
}

fn system(what: &str, source: std::io::Error) -> WorkError {
    WorkError::System { what: what.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_within_their_root_and_limit_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root { name: "main".into(), path: folder.path().join("root") };
        std::fs::create_dir_all(root.path.join("sub")).unwrap();
        std::fs::write(root.path.join("sub/a.bin"), b"12345").unwrap();
        std::fs::write(folder.path().join("secret"), b"s").unwrap();
        std::os::unix::fs::symlink("../secret", root.path.join("out")).unwrap();
        std::os::unix::fs::symlink("sub/a.bin", root.path.join("in")).unwrap();
        let read = |path: &str, limit| read_below(&root, path, ByteSize(limit));
        assert_eq!(read("sub/a.bin", 5).unwrap(), b"12345");
        assert_eq!(read("in", 5).unwrap(), b"12345");
        for (path, limit, word) in [("sub/a.bin", 4, "more than"), ("out", 5, "leads out"), ("sub", 5, "not a file")] {
            let error = read(path, limit).unwrap_err();
            assert!(matches!(&error, WorkError::BadInput { why, .. } if why.contains(word)), "{path}: {error}");
        }
        for path in ["none", "sub/a.bin/b"] {
            assert!(matches!(read(path, 5), Err(WorkError::NoInput(_))), "{path}");
        }
    }
}
