//! Attach: a program on this host gets resident weights as a descriptor of sealed memory, or as a handle of a CUDA device's
//! memory, without a copy of its own.
//!
//! A unix socket; a frame is five bytes (length of the text, little-endian; 1 when a descriptor comes with it) and a JSON
//! text, see `protocol`. The connection is the lease: what was attached over it stays resident until it is released or
//! the connection ends, however the program ends. A runner that dies takes its device's memory with it: the connection ends then.

mod find;
mod protocol;
mod session;

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::context::Agent;

/// Programs that may be attached at a time.
const CLIENTS: usize = 256;

/// Who may attach.
#[derive(Debug, Clone)]
pub struct Admission {
    /// User ids beside root and the agent's own.
    pub users: Vec<u32>,
}

impl Admission {
    /// Whether a program of this user may attach.
    fn admits(&self, user: u32) -> bool {
        user == 0 || user == rustix::process::geteuid().as_raw() || self.users.contains(&user)
    }
}

/// The socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // nobody can be told at this point, and the next start replaces a socket that nobody serves
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Binds, in place of a socket that an earlier agent left behind. Everybody may connect; the kernel says who does, and
    /// [`Admission`] decides.
    ///
    /// # Errors
    /// `AddrInUse` when another process serves it or the path is something else; what the system answers.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() || UnixStream::connect(path).await.is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(socket)
    }

    /// Serves programs until it is dropped; those that are attached are ended with the agent.
    pub async fn serve(self, agent: Arc<Agent>, admission: Admission) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        let stop = agent.tasks.token().clone();
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // out of descriptors: those who are attached give some back
                    tracing::warn!(%error, "cannot accept a program that wants to attach");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let place = places.clone().try_acquire_owned();
            let (agent, admission, stop) = (agent.clone(), admission.clone(), stop.clone());
            agent.clone().tasks.spawn("attach", async move {
                let session = session::run(&agent, &admission, stream, place.is_ok());
                tokio::select! {
                    () = stop.cancelled() => {}
                    ended = session => match ended {
                        Ok(()) => {}
                        Err(error) => tracing::debug!(%error, "an attached program's connection ended"),
                    }
                }
                drop(place);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_socket_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attach.sock");
        let first = Socket::bind(&path).await.unwrap();
        assert_eq!(Socket::bind(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // as after a kill: the file is there and nobody listens
        let Socket { listener, .. } = &first;
        assert!(listener.local_addr().is_ok());
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Socket::bind(&path).await.unwrap());
        std::fs::write(&path, "a file").unwrap();
        assert!(Socket::bind(&path).await.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn root_the_agent_and_named_users_may_attach() {
        let own = rustix::process::geteuid().as_raw();
        let admission = Admission { users: vec![own + 1] };
        assert!(admission.admits(0) && admission.admits(own) && admission.admits(own + 1));
        assert!(!admission.admits(own + 2));
    }
}
