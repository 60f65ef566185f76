//! A name below a root that is free to be written: found without leaving the root, drafted under another name, published at once.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    WriteError,
    name::{Standing, WriterOf},
};
use crate::inspection::FileFacts;

/// What drafts begin and end with: hidden, and no model's extension, so that no scan takes one for a model.
const DRAFT: (&str, &str) = (".modelyard-", ".part");
/// Room that is left to others.
const SPARE_BYTES: u64 = 16 << 20;

/// Where something is to be written.
#[derive(Debug)]
pub struct Place {
    pub(super) folder: OwnedFd,
    pub(super) folder_path: PathBuf,
    pub(super) name: String,
}

/// A file under another name, removed unless it is published. Its lock says that its writer lives.
#[derive(Debug)]
pub(super) struct Draft<'p> {
    pub(super) file: File,
    place: &'p Place,
    name: String,
    /// Somebody else's file has the name and could not be put back.
    is_theirs: bool,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.is_theirs {
            return;
        }
        // what was published has this name no longer, and what it replaced has it
        let _ = rustix::fs::unlinkat(&self.place.folder, &self.name, AtFlags::empty());
    }
}

impl Place {
    /// The place `below` the folder `root`. Its folder must be there; links on the way must not lead out of the root.
    ///
    /// # Errors
    /// [`WriteError::BadPath`], [`WriteError::NoFolder`].
    pub fn open(root: &Path, below: &str) -> Result<Self, WriteError> {
        let (folder, name) = parts(below)?;
        let no_folder = |errno: Errno| WriteError::NoFolder { path: below.to_owned(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(no_folder)?;
        let inside = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&opened, inside, flags, Mode::empty(), beneath).map_err(no_folder)?;
        Ok(Self { folder: opened, folder_path: root.join(folder), name: name.to_owned() })
    }

    /// The full path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }

    /// Refuses a place that is one of these files, or a folder that one of them lies in.
    ///
    /// # Errors
    /// [`WriteError::IsSource`].
    pub fn must_be_none_of(&self, files: &[FileFacts]) -> Result<(), WriteError> {
        let Some(there) = self.status()? else { return Ok(()) };
        let is = |file: &FileFacts| match there.is_dir() {
            false => (file.dev, file.inode) == (there.dev(), there.ino()),
            true => file.path.ancestors().skip(1).any(|folder| {
                std::fs::metadata(folder).is_ok_and(|folder| (folder.dev(), folder.ino()) == (there.dev(), there.ino()))
            }),
        };
        if files.iter().any(is) { Err(WriteError::IsSource { path: self.path() }) } else { Ok(()) }
    }

    pub(crate) fn failed(&self, doing: &'static str, source: io::Error) -> WriteError {
        match source.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                WriteError::ReadOnly { path: self.folder_path.clone(), source }
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                WriteError::NoSpace { path: self.folder_path.clone(), needed_bytes: SPARE_BYTES, free_bytes: 0 }
            }
            _ => WriteError::Io { path: self.path(), doing, source },
        }
    }

    /// What has the name now, itself if it is a link.
    pub(super) fn status(&self) -> Result<Option<std::fs::Metadata>, WriteError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty()) {
            Ok(there) => File::from(there).metadata().map(Some).map_err(|source| self.failed("looking at it", source)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("looking at it", errno.into())),
        }
    }

    pub(crate) fn must_have_room(&self, needed_bytes: u64) -> Result<(), WriteError> {
        let stats = rustix::fs::fstatvfs(&self.folder).map_err(|errno| self.failed("asking for room", errno.into()))?;
        let free_bytes = stats.f_bavail.saturating_mul(stats.f_frsize);
        if needed_bytes.saturating_add(SPARE_BYTES) <= free_bytes {
            return Ok(());
        }
        Err(WriteError::NoSpace { path: self.folder_path.clone(), needed_bytes, free_bytes })
    }

    /// An empty file in the folder, locked. Drafts of the same name that nobody writes any more are removed.
    pub(super) fn draft(&self) -> Result<Draft<'_>, WriteError> {
        self.sweep();
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}.{}-{number}{}", DRAFT.0, self.name, std::process::id(), DRAFT.1);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, &name, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| self.failed("making a file", errno.into()))?;
        let draft = Draft { file: File::from(file), place: self, name, is_theirs: false };
        rustix::fs::flock(&draft.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| self.failed("locking the draft", errno.into()))?;
        Ok(draft)
    }

    /// Removes what a killed process left; what cannot be looked at stays.
    fn sweep(&self) {
        let begin = format!("{}{}.", DRAFT.0, self.name);
        let Ok(entries) = rustix::fs::Dir::read_from(&self.folder) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !(name.starts_with(&begin) && name.ends_with(DRAFT.1)) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&self.folder, name, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // gone already is as good
                let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
            }
        }
    }

    /// Flushes a draft and gives it its name: a free one, unless something of ours is to be replaced.
    pub(super) fn publish(
        &self,
        mut draft: Draft<'_>,
        standing: Standing,
        writer_of: WriterOf<'_>,
    ) -> Result<(), WriteError> {
        draft.file.sync_all().map_err(|source| self.failed("flushing it", source))?;
        let named = self.take(&draft.name, standing, writer_of);
        draft.is_theirs = matches!(named, Err(WriteError::Displaced { .. }));
        named?;
        rustix::fs::fsync(&self.folder).map_err(|errno| self.failed("flushing the folder", errno.into()))
    }
}

/// Folder and name; only plain parts.
fn parts(below: &str) -> Result<(&Path, &str), WriteError> {
    let bad = |why| WriteError::BadPath { path: below.to_owned(), why: Cow::Borrowed(why) };
    let path = Path::new(below);
    if below.is_empty() || below.contains('\0') || below.ends_with('/') {
        return Err(bad("it names no file"));
    }
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(bad("it is absolute or has parts that lead elsewhere"));
    }
    if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with('.')) {
        return Err(bad("a part of it is hidden, where no scan looks"));
    }
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| bad("it names no file"))?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}
