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

use crate::{
    error::ResidencyError,
    identity::{ChangedFact, ChangedFile, FileIdentity, SourceFile},
    request::{Direct, IoOptions},
};

/// Alignment of offset, length and memory that every common file system takes for `O_DIRECT`.
const ALIGN: usize = 4096;

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
pub(super) struct Source {
    expected: SourceFile,
    buffered: File,
    direct: Option<File>,
    /// `O_DIRECT` opened but reads were refused: some file systems say so only then.
    direct_refused: AtomicBool,
    required: bool,
    follow: bool,
}

impl Source {
    pub(super) fn open(source: &SourceFile, io: &IoOptions) -> Result<Self, ResidencyError> {
        let buffered =
            open(&source.path, io.follow_symlinks, OFlags::empty()).map_err(|error| open_error(&source.path, error))?;
        let meta = buffered.metadata().map_err(|error| open_error(&source.path, error))?;
        if !meta.is_file() {
            return Err(not_regular(&source.path, &meta));
        }
        let direct = match io.direct {
            Direct::Off => None,
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
        };
        opened.compare_descriptors()?;
        Ok(opened)
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

    /// The bytes `begin..end` of the file, in the bounce buffer.
    pub(super) fn read<'b>(&self, bounce: &'b mut Bounce, begin: u64, end: u64) -> Result<&'b [u8], ResidencyError> {
        let wanted = (end - begin) as usize;
        if let Some(file) = self.direct() {
            let low = begin / ALIGN as u64 * ALIGN as u64;
            let skip = (begin - low) as usize;
            let room = bounce.room((skip + wanted).next_multiple_of(ALIGN));
            match fill(file, room, skip + wanted, low) {
                Ok(got) => {
                    return self.whole(&bounce.bytes()[skip..], wanted, got.saturating_sub(skip), begin);
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
            fill(&self.buffered, bounce.room(wanted), wanted, begin).map_err(|errno| self.io_error(begin, errno))?;
        self.whole(bounce.bytes(), wanted, got, begin)
    }

    fn whole<'b>(&self, bytes: &'b [u8], wanted: usize, got: usize, offset: u64) -> Result<&'b [u8], ResidencyError> {
        if got < wanted {
            return Err(ResidencyError::ShortRead {
                path: self.expected.path.clone(),
                offset,
                wanted_bytes: wanted as u64,
                got_bytes: got as u64,
            });
        }
        Ok(&bytes[..wanted])
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

/// One thread's aligned buffer between file and extent: tensors lie in a file at any offset, direct
/// reads want aligned memory, so a copy is needed; it is done piecewise while hashing, in cache.
#[derive(Debug)]
pub(super) struct Bounce {
    memory: Vec<u8>,
    start: usize,
}

impl Bounce {
    /// For reads of up to `chunk` bytes at any offset.
    pub(super) fn new(chunk: usize) -> Self {
        let memory = vec![0; chunk + 3 * ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, start }
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}
