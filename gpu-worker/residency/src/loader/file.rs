//! One source file: opened with care, compared before and after, read around the page cache where possible.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{Advice, OFlags, fadvise},
    io::{Errno, pread},
};
use serde::Serialize;

use super::{
    bounce::Bounce,
    disk::{Disk, Disks, Kind},
    hung::{Call, Reading},
};
use crate::{
    error::ResidencyError,
    identity::{ChangedFact, ChangedFile, FileIdentity, SourceFile},
    request::{Direct, IoOptions},
};

/// Alignment of offset, length and memory that every common file system takes for `O_DIRECT`.
pub(super) const ALIGN: usize = 4096;

/// How a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// Around the page cache.
    Direct,
    /// Through it.
    Buffered,
}

/// An open source.
#[derive(Debug)]
pub(super) struct Source<'a> {
    expected: SourceFile,
    buffered: File,
    direct: Option<File>,
    /// `O_DIRECT` opened but reads were refused: some file systems say so only then.
    direct_refused: AtomicBool,
    required: bool,
    follow: bool,
    disk: Arc<Disk>,
    reading: &'a Reading,
    /// Its disk is called once more when the files are closed, which may take as long as a read. The last field, so that the
    /// call ends after they are.
    closing: Option<Call<'a>>,
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        self.closing = Some(self.reading.call(self.expected.expected.dev));
    }
}

impl<'a> Source<'a> {
    pub(super) fn open(
        source: &SourceFile,
        io: &IoOptions,
        disks: &Disks,
        reading: &'a Reading,
    ) -> Result<Self, ResidencyError> {
        let _call = reading.call(source.expected.dev);
        let buffered =
            open(&source.path, io.follow_symlinks, OFlags::empty()).map_err(|error| open_error(&source.path, error))?;
        let meta = buffered.metadata().map_err(|error| open_error(&source.path, error))?;
        if !meta.is_file() {
            return Err(not_regular(&source.path, &meta));
        }
        let disk = disks.of(&buffered).map_err(|error| open_error(&source.path, error))?;
        let direct = match io.direct {
            Direct::Off => None,
            Direct::Auto if disk.kind() != Kind::Local => None,
            Direct::Auto => open(&source.path, io.follow_symlinks, OFlags::DIRECT).ok(),
            Direct::On => Some(
                open(&source.path, io.follow_symlinks, OFlags::DIRECT)
                    .map_err(|error| open_error(&source.path, error))?,
            ),
        };
        let opened = Self {
            expected: source.clone(),
            buffered,
            direct,
            direct_refused: AtomicBool::new(false),
            required: io.direct == Direct::On,
            follow: io.follow_symlinks,
            disk,
            reading,
            closing: None,
        };
        opened.compare_descriptors()?;
        Ok(opened)
    }

    /// Its disk is called.
    fn call(&self) -> Call<'_> {
        self.reading.call(self.expected.expected.dev)
    }

    pub(super) fn path(&self) -> &Path {
        &self.expected.path
    }

    pub(super) fn mode(&self) -> ReadMode {
        if self.direct().is_some() { ReadMode::Direct } else { ReadMode::Buffered }
    }

    fn direct(&self) -> Option<&File> {
        self.direct.as_ref().filter(|_| !self.direct_refused.load(Ordering::Acquire))
    }

    /// Both descriptors are the described file.
    fn compare_descriptors(&self) -> Result<(), ResidencyError> {
        for file in [Some(&self.buffered), self.direct.as_ref()].into_iter().flatten() {
            let meta = file.metadata().map_err(|error| open_error(self.path(), error))?;
            self.compare(&FileIdentity::from_metadata(&meta))?;
        }
        Ok(())
    }

    /// The open file is as described, and the path still leads to it.
    pub(super) fn verify_unchanged(&self) -> Result<(), ResidencyError> {
        let _call = self.call();
        self.compare_descriptors()?;
        let meta = if self.follow { fs::metadata(self.path()) } else { fs::symlink_metadata(self.path()) };
        match meta {
            Ok(meta) => self.compare(&FileIdentity::from_metadata(&meta)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.changed(ChangedFact::Removed, None)),
            Err(error) => Err(open_error(self.path(), error)),
        }
    }

    fn compare(&self, now: &FileIdentity) -> Result<(), ResidencyError> {
        match self.expected.expected.difference(now) {
            Some(what) => Err(self.changed(what, Some(*now))),
            None => Ok(()),
        }
    }

    fn changed(&self, what: ChangedFact, after: Option<FileIdentity>) -> ResidencyError {
        ResidencyError::Changed(Box::new(ChangedFile {
            path: self.expected.path.clone(),
            what,
            before: self.expected.expected,
            after,
        }))
    }

    /// The disk that it is on.
    pub(super) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The bytes `begin..end` of the file, in the bounce buffer from the place that is answered on; none when they are not
    /// wanted any more before their turn to read came. Cancel is the caller's: `wanted` is asked only while waiting.
    pub(super) fn read(
        &self,
        bounce: &mut Bounce,
        begin: u64,
        end: u64,
        wanted: impl Fn() -> bool,
    ) -> Result<Option<usize>, ResidencyError> {
        let length = (end - begin) as usize;
        // who waits for a turn waits for this disk as well: it is the one that does not answer
        let _call = self.call();
        let Some(_turn) = self.disk.turn(wanted) else { return Ok(None) };
        if let Some(file) = self.direct() {
            let low = begin / ALIGN as u64 * ALIGN as u64;
            let skip = (begin - low) as usize;
            let room = bounce.room((skip + length).next_multiple_of(ALIGN));
            match fill(file, room, skip + length, low) {
                Ok(got) => {
                    self.check_whole(length, got.saturating_sub(skip), begin)?;
                    return Ok(Some(skip));
                }
                Err(Errno::INVAL) if !self.required => {
                    self.direct_refused.store(true, Ordering::Release);
                }
                Err(errno) => return Err(self.io_error(begin, errno)),
            }
        }
        // The threads share one descriptor, so the kernel sees no sequence: say what comes. A hint,
        // hence no error.
        let _ = fadvise(&self.buffered, begin, std::num::NonZeroU64::new(end - begin), Advice::WillNeed);
        let got =
            fill(&self.buffered, bounce.room(length), length, begin).map_err(|errno| self.io_error(begin, errno))?;
        self.check_whole(length, got, begin)?;
        Ok(Some(0))
    }

    fn check_whole(&self, wanted: usize, got: usize, offset: u64) -> Result<(), ResidencyError> {
        if got < wanted {
            return Err(ResidencyError::ShortRead {
                path: self.expected.path.clone(),
                offset,
                wanted_bytes: wanted as u64,
                got_bytes: got as u64,
            });
        }
        Ok(())
    }

    fn io_error(&self, offset: u64, errno: Errno) -> ResidencyError {
        let source = Arc::new(io::Error::from(errno));
        ResidencyError::Io { path: self.expected.path.clone(), offset, source }
    }
}

/// Reads until at least `wanted` bytes are there or the file ends; returns the bytes read.
fn fill(file: &File, room: &mut [u8], wanted: usize, offset: u64) -> Result<usize, Errno> {
    let mut got = 0;
    while got < wanted {
        match pread(file, &mut room[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(Errno::INTR) => {}
            // A direct read that stopped off its alignment stopped at the end of the file.
            Err(Errno::INVAL) if got % ALIGN != 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(got)
}

/// Nonblocking, so that a FIFO in a model folder cannot hold a thread for ever.
fn open(path: &Path, follow: bool, extra: OFlags) -> io::Result<File> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | extra;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn open_error(path: &Path, error: io::Error) -> ResidencyError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => ResidencyError::Missing { path },
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            ResidencyError::NotRegular { path, found: "symbolic link" }
        }
        _ => ResidencyError::Unreadable { path, source: Arc::new(error) },
    }
}

fn not_regular(path: &Path, meta: &fs::Metadata) -> ResidencyError {
    let found = if meta.is_dir() { "directory" } else { "special file" };
    ResidencyError::NotRegular { path: path.to_owned(), found }
}
