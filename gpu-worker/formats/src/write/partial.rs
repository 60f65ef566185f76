//! A file or folder in the making that outlives its process: under a name of its own beside its goal, with a journal whose lock says
//! that somebody is at it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    Place, WriteError,
    name::{Standing, WriterOf},
};

/// Something in the making.
#[derive(Debug)]
pub(crate) struct Partial<'p> {
    place: &'p Place,
    /// The journal, locked.
    pub(crate) journal: File,
    /// The folder that is in the making; none for a file.
    folder: Option<OwnedFd>,
}

impl<'p> Partial<'p> {
    /// What an earlier attempt left, or a new one; none while another process is at it. Something of the other kind is removed.
    ///
    /// # Errors
    /// [`WriteError`].
    pub(crate) fn open(place: &'p Place, is_folder: bool) -> Result<Option<Self>, WriteError> {
        let journal = Self::openat(place, &journal_name(place), OFlags::CREATE)?;
        match rustix::fs::flock(&journal, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(place.failed("locking the journal", errno.into())),
        }
        let name = partial_name(place);
        let path = place.folder_path.join(&name);
        let there = std::fs::symlink_metadata(&path).ok();
        if there.is_some_and(|there| there.is_dir() != is_folder) {
            remove(&path).map_err(|source| place.failed("removing what was left", source))?;
        }
        let folder = if is_folder { Some(made_folder(place, &name)?) } else { None };
        Ok(Some(Self { place, journal, folder }))
    }

    fn openat(place: &Place, name: &str, more: OFlags) -> Result<File, WriteError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let opened = rustix::fs::openat(&place.folder, name, flags, Mode::from_raw_mode(0o644));
        opened.map(File::from).map_err(|errno| place.failed("making a file", errno.into()))
    }

    /// The file at this path below the folder in the making, or the file in the making itself; made where it is not there.
    ///
    /// # Errors
    /// [`WriteError`].
    pub(crate) fn file(&self, below: &str) -> Result<File, WriteError> {
        let Some(folder) = &self.folder else {
            return Self::openat(self.place, &partial_name(self.place), OFlags::CREATE);
        };
        if let Some((parent, _)) = below.rsplit_once('/') {
            match rustix::fs::mkdirat(folder, parent, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.place.failed("making a folder", errno.into())),
            }
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = rustix::fs::openat2(folder, below, flags, Mode::from_raw_mode(0o644), within);
        opened.map(File::from).map_err(|errno| self.place.failed("making a file", errno.into()))
    }

    /// Where that file is.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        let path = self.place.folder_path.join(partial_name(self.place));
        if self.folder.is_some() { path.join(below) } else { path }
    }

    /// Gives it the name of its goal, in place of something of ours only where that was there.
    ///
    /// # Errors
    /// [`WriteError::Exists`] and others; it then stays as it is.
    pub(crate) fn publish(&self, standing: Standing, writer_of: WriterOf<'_>) -> Result<(), WriteError> {
        let (place, name) = (self.place, partial_name(self.place));
        if let Some(folder) = &self.folder {
            sync_folders(&self.path("")).map_err(|source| place.failed("flushing its folders", source))?;
            rustix::fs::fsync(folder).map_err(|errno| place.failed("flushing its folder", errno.into()))?;
        }
        place.take(&name, standing, writer_of)?;
        rustix::fs::fsync(&place.folder).map_err(|errno| place.failed("flushing the folder", errno.into()))?;
        // what was replaced has this name now
        self.discard();
        Ok(())
    }

    /// Removes it and its journal; what cannot be removed is overwritten by the next attempt.
    pub(crate) fn discard(&self) {
        let _ = remove(&self.place.folder_path.join(partial_name(self.place)));
        let _ = rustix::fs::unlinkat(&self.place.folder, journal_name(self.place), AtFlags::empty());
    }
}

fn partial_name(place: &Place) -> String {
    format!(".modelyard-{}.partial", place.name)
}

fn journal_name(place: &Place) -> String {
    format!(".modelyard-{}.journal", place.name)
}

fn made_folder(place: &Place, name: &str) -> Result<OwnedFd, WriteError> {
    match rustix::fs::mkdirat(&place.folder, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(place.failed("making a folder", errno.into())),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(place.folder.as_fd(), name, flags, Mode::empty());
    opened.map_err(|errno| place.failed("opening a folder", errno.into()))
}

fn sync_folders(folder: &std::path::Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    Ok(())
}

/// Removes a file or a folder with what is in it; nothing is as good.
///
/// # Errors
/// What the system answers.
pub(crate) fn remove(path: &std::path::Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
