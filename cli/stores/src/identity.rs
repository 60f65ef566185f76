//! As whom a server runs. Postgres refuses uid 0, so root hands it to another identity.

use std::{
    ffi::OsString,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::StoresError;

/// The identity of a server; recorded with its data, because files belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "as")]
pub enum RunAs {
    /// As whoever runs this.
    Caller,
    /// As this system user.
    User {
        /// Name.
        name: String,
        /// Numeric id.
        uid: u32,
        /// Numeric group id.
        gid: u32,
    },
    /// As nobody of a user namespace whose outside is root: for root without another user, or in a folder that no
    /// other user can enter.
    Namespace,
}

/// How long a program lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until its work is done; the caller waits.
    Work,
    /// In a session of its own, whatever becomes of the caller.
    Session,
    /// Gets this signal when the thread that started it ends.
    Parent(&'static str),
}

impl RunAs {
    /// The identity for a server whose files are below `dir`, preferring the named system users.
    ///
    /// # Errors
    /// [`StoresError::NoIdentity`] for root when no way works.
    pub fn choose(dir: &Path, users: &[&str]) -> Result<Self, StoresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Caller);
        }
        let user = users.iter().find_map(|name| system_user(name));
        let mut reason = format!("there is no user {}", users.join(" or "));
        if let Some((name, uid, gid)) = user {
            match blocked_at(dir, uid, gid) {
                None => return Ok(Self::User { name, uid, gid }),
                Some(folder) => reason = format!("user {name} cannot enter {}", folder.display()),
            }
        }
        if namespace_works() {
            return Ok(Self::Namespace);
        }
        Err(StoresError::NoIdentity { reason: format!("{reason}, and user namespaces are not allowed here") })
    }

    /// A command line that runs `program` as this identity.
    pub(crate) fn command(&self, program: &Path, life: Life) -> Command {
        let mut line: Vec<OsString> = Vec::new();
        if life == Life::Session {
            line.push("setsid".into());
        }
        if *self == Self::Namespace {
            line.extend(["unshare", "-U", "--map-user=65534", "--map-group=65534"].map(OsString::from));
        }
        let mut setpriv: Vec<OsString> = Vec::new();
        if let Self::User { uid, gid, .. } = self {
            setpriv.push(format!("--reuid={uid}").into());
            setpriv.push(format!("--regid={gid}").into());
            setpriv.push("--clear-groups".into());
        }
        if let Life::Parent(signal) = life {
            setpriv.push("--pdeathsig".into());
            setpriv.push(signal.into());
        }
        if !setpriv.is_empty() {
            line.push("setpriv".into());
            line.extend(setpriv);
        }
        line.push(program.into());
        let mut line = line.into_iter();
        let mut command = Command::new(line.next().unwrap_or_default());
        command.args(line);
        command
    }

    /// Gives a file or folder to this identity.
    pub(crate) fn own(&self, path: &Path) -> Result<(), StoresError> {
        match self {
            Self::User { uid, gid, .. } => {
                chown(path, Some(*uid), Some(*gid)).map_err(|source| StoresError::file("hand over", path, source))
            }
            Self::Caller | Self::Namespace => Ok(()),
        }
    }
}

/// Name, uid and gid from the local user table; directory services are not asked, server users are local.
fn system_user(name: &str) -> Option<(String, u32, u32)> {
    let table = std::fs::read_to_string("/etc/passwd").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        found.then(|| (name.to_owned(), uid, gid))
    })
}

/// The first folder on the way to `dir` that this user may not enter.
fn blocked_at(dir: &Path, uid: u32, gid: u32) -> Option<&Path> {
    let mut folders: Vec<&Path> = dir.ancestors().collect();
    folders.reverse();
    folders.into_iter().find(|folder| {
        let Ok(meta) = std::fs::metadata(folder) else { return false };
        let mode = meta.permissions().mode();
        let bit = if meta.uid() == uid {
            0o100
        } else if meta.gid() == gid {
            0o010
        } else {
            0o001
        };
        mode & bit == 0
    })
}

fn namespace_works() -> bool {
    Command::new("unshare")
        .args(["-U", "--map-user=65534", "--map-group=65534", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_folder_blocks_other_users_and_not_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let owner = std::fs::metadata(folder.path()).unwrap();
        assert_eq!(blocked_at(&inside, owner.uid() + 1, owner.gid() + 1), Some(folder.path()));
        assert_eq!(blocked_at(&inside, owner.uid(), owner.gid()), None);
    }

    #[test]
    fn command_lines_wrap_the_program() {
        let line = |run_as: &RunAs, life| {
            let command = run_as.command(Path::new("/bin/x"), life);
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let user = RunAs::User { name: "postgres".into(), uid: 7, gid: 8 };
        assert_eq!(line(&RunAs::Caller, Life::Work), "/bin/x");
        assert_eq!(line(&RunAs::Caller, Life::Session), "setsid /bin/x");
        assert_eq!(
            line(&user, Life::Parent("INT")),
            "setpriv --reuid=7 --regid=8 --clear-groups --pdeathsig INT /bin/x"
        );
        assert_eq!(
            line(&RunAs::Namespace, Life::Parent("INT")),
            "unshare -U --map-user=65534 --map-group=65534 setpriv --pdeathsig INT /bin/x"
        );
    }
}
