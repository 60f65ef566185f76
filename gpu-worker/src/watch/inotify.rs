//! The kernel's events of a tree of folders.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// Bytes of events that are read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// What a folder is watched for. Reads are of no interest: our own loads make them.
fn mask() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody writes to this file.
    Written(PathBuf),
    /// A file came, went, was closed after writing or got other attributes.
    Changed(PathBuf),
    /// Folders came or went, or a link that may lead to one.
    Folders,
    /// Events were dropped.
    Overflow,
}

/// A watch of folders.
#[derive(Debug)]
pub(super) struct Tree {
    queue: AsyncFd<OwnedFd>,
    folders: HashMap<i32, PathBuf>,
}

impl Tree {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// `EMFILE` when the user has too many of these.
    pub(super) fn new() -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "sound for a descriptor that is owned and never replaced; the other way is `unsafe`"
        )]
        let queue = AsyncFd::new(queue)?;
        Ok(Self { queue, folders: HashMap::new() })
    }

    /// Watches exactly these folders. What is gone in the meantime is left out: its parent tells of it.
    ///
    /// # Errors
    /// `ENOSPC` when the user watches too many folders, `ENOMEM`.
    pub(super) fn follow(&mut self, folders: &[PathBuf]) -> io::Result<usize> {
        let mut now = HashMap::with_capacity(folders.len());
        for folder in folders {
            // for a folder that is watched already the kernel gives the same number again, also under a new name
            match inotify::add_watch(self.queue.get_ref(), folder, mask()) {
                Ok(watch) => {
                    now.insert(watch, folder.clone());
                }
                Err(error @ (Errno::NOSPC | Errno::NOMEM | Errno::MFILE)) => return Err(error.into()),
                Err(error) => tracing::debug!(folder = %folder.display(), %error, "a folder cannot be watched"),
            }
        }
        for watch in self.folders.keys().filter(|watch| !now.contains_key(watch)) {
            // the kernel may have dropped it with its folder
            let _ = inotify::remove_watch(self.queue.get_ref(), *watch);
        }
        self.folders = now;
        Ok(self.folders.len())
    }

    /// Waits for events and takes all that are there. Cancel safe.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub(super) async fn events(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.queue.readable().await?;
            let taken = ready.try_io(|queue| take(queue.get_ref(), &self.folders));
            if let Ok(events) = taken {
                return events;
            }
        }
    }
}

impl Tree {
    /// Takes the events that are there, without waiting.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub(super) fn waiting(&self) -> io::Result<Vec<Event>> {
        match take(self.queue.get_ref(), &self.folders) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            taken => taken,
        }
    }
}

/// Everything in the queue; `WouldBlock` when it is empty.
fn take(queue: &OwnedFd, folders: &HashMap<i32, PathBuf>) -> io::Result<Vec<Event>> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
    let mut reader = inotify::Reader::new(queue, &mut buffer);
    let (mut events, mut any) = (Vec::new(), false);
    loop {
        match reader.next() {
            Ok(event) => {
                any = true;
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                let new = translate(event.events(), folders.get(&event.wd()).map(PathBuf::as_path), name);
                events.extend(new.filter(|new| events.last() != Some(new)));
            }
            Err(Errno::WOULDBLOCK) if any => return Ok(events),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn translate(what: ReadFlags, folder: Option<&Path>, name: Option<&OsStr>) -> Option<Event> {
    if what.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Event::Overflow);
    }
    // of a folder that is not followed any more
    let folder = folder?;
    if what.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
        return Some(Event::Folders);
    }
    // attributes of a folder itself say nothing of what is in it
    let name = name?;
    if model_formats::is_passed_over(&name.to_string_lossy()) {
        return None;
    }
    let path = folder.join(name);
    if what.contains(ReadFlags::ISDIR) {
        return (!what.contains(ReadFlags::ATTRIB)).then_some(Event::Folders);
    }
    if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && path.is_symlink() {
        return Some(Event::Folders);
    }
    Some(if what.contains(ReadFlags::MODIFY) { Event::Written(path) } else { Event::Changed(path) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn files_folders_and_what_is_still_written_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let below = |name: &str| root.path().join(name);
        let mut tree = Tree::new().unwrap();
        assert_eq!(tree.follow(&[root.path().to_owned(), below("not-there")]).unwrap(), 1);

        fs::write(below("a.safetensors"), "x").unwrap();
        let path = below("a.safetensors");
        let seen = tree.events().await.unwrap();
        assert!(seen.contains(&Event::Written(path.clone())), "{seen:?}");
        assert_eq!(seen.last(), Some(&Event::Changed(path)), "it was closed");

        // neither hidden files nor unfinished downloads count; the name that such a file gets at its end does
        fs::write(below(".hidden"), "x").unwrap();
        fs::write(below("b.safetensors.part"), "x").unwrap();
        fs::rename(below("b.safetensors.part"), below("b.safetensors")).unwrap();
        assert_eq!(tree.events().await.unwrap(), [Event::Changed(below("b.safetensors"))]);

        fs::create_dir(below("sub")).unwrap();
        assert_eq!(tree.events().await.unwrap(), [Event::Folders]);
        assert_eq!(tree.follow(&[root.path().to_owned(), below("sub")]).unwrap(), 2);
        fs::rename(below("sub"), below("other")).unwrap();
        assert!(tree.events().await.unwrap().contains(&Event::Folders));
        // the same folder under its new name
        assert_eq!(tree.follow(&[root.path().to_owned(), below("other")]).unwrap(), 2);
        fs::remove_file(below("a.safetensors")).unwrap();
        fs::write(below("other/c.safetensors"), "").unwrap();
        let seen = tree.events().await.unwrap();
        assert_eq!(
            seen,
            [Event::Changed(below("a.safetensors")), Event::Changed(below("other/c.safetensors"))],
            "{seen:?}"
        );
    }
}
