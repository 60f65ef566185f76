//! A file system that hangs, fails, is slow or ends files early on command, when it is read or when a file is closed: what a dead
//! file server or a dying disk does. Needs the right to mount.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};

/// Reads before this offset are always answered: headers can be listed.
const HEADERS: u64 = 1 << 20;
/// More than there are files.
const FILES: u64 = 256;
/// The kernel asks each time: what it was told a moment ago may be of another file.
const TTL: Duration = Duration::ZERO;

/// What happens to reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Answer,
    /// From this byte on.
    Hang(u64),
    /// When a file is closed of which more than the header was read.
    HangClosing,
    Fail,
    /// So many bytes in a second.
    Slow(u32),
    /// No read gives what is behind this byte, whatever size the file is said to have.
    End(u64),
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    /// Reads that hang: what was asked, and where the answer goes.
    held: Vec<(usize, u64, u32, ReplyData)>,
    /// More than headers was read.
    read: bool,
    /// Closings that hang.
    closing: Vec<ReplyEmpty>,
}

/// The files of one folder, read-only, under another path.
#[derive(Debug)]
pub struct FailingDisk {
    state: Arc<Mutex<State>>,
    files: Arc<Vec<PathBuf>>,
    session: Option<BackgroundSession>,
}

impl FailingDisk {
    /// Mounts the files of `folder` at `at`; none where this process may not mount.
    ///
    /// # Panics
    /// When the folders cannot be read or made.
    pub fn mount(folder: &Path, at: &Path) -> Option<Self> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
        files.sort();
        fs::create_dir_all(at).expect("a folder can be made");
        let (files, state) = (Arc::new(files), Arc::<Mutex<State>>::default());
        let disk = Disk { files: files.clone(), state: state.clone() };
        let mut config = fuser::Config::default();
        config.mount_options = vec![fuser::MountOption::RO, fuser::MountOption::FSName("failing-disk".to_owned())];
        let session = fuser::spawn_mount(disk, at, &config).ok()?;
        Some(Self { state, files, session: Some(session) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads hang from now on.
    pub fn hang(&self) {
        self.hang_from(HEADERS);
    }

    /// Reads that begin at this byte or behind it hang from now on.
    pub fn hang_from(&self, offset: u64) {
        self.state().mode = Mode::Hang(offset);
    }

    /// Closing a file hangs from now on, once more than headers was read.
    pub fn hang_closing(&self) {
        let mut state = self.state();
        (state.mode, state.read) = (Mode::HangClosing, false);
    }

    /// Files that hang in being closed.
    pub fn closing(&self) -> usize {
        self.state().closing.len()
    }

    /// Reads fail from now on.
    pub fn fail(&self) {
        self.state().mode = Mode::Fail;
    }

    /// Reads give no more than this in a second from now on.
    pub fn slow(&self, bytes_per_second: u32) {
        self.state().mode = Mode::Slow(bytes_per_second);
    }

    /// Reads give nothing from this byte on, as where a file ends before its size says so.
    pub fn end_at(&self, offset: u64) {
        self.state().mode = Mode::End(offset);
    }

    /// Reads that hang now.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Reads are answered from now on, those that hang as well.
    pub fn answer(&self) {
        let mut state = self.state();
        state.mode = Mode::Answer;
        for (file, offset, size, reply) in state.held.drain(..) {
            answer(&self.files[file], offset, size, reply);
        }
        state.closing.drain(..).for_each(ReplyEmpty::ok);
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        self.answer();
        if let Some(session) = self.session.take() {
            // a file that is still open keeps it mounted until the process that has it open is gone, too
            let _ = session.umount_and_join();
        }
    }
}

#[derive(Debug)]
struct Disk {
    files: Arc<Vec<PathBuf>>,
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// The file of a number, or the one that has its name now; the folder is number 1.
    fn index(&self, ino: INodeNo) -> Option<usize> {
        let index = usize::try_from((u64::from(ino) % FILES).checked_sub(2)?).ok()?;
        (index < self.files.len()).then_some(index)
    }

    fn attributes(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let folder = || self.files.first().and_then(|file| file.parent()).map_or_else(|| "/".into(), Path::to_owned);
        let index = self.index(ino);
        let meta = fs::metadata(index.map_or_else(folder, |index| self.files[index].clone()))?;
        let time = UNIX_EPOCH
            + Duration::new(u64::try_from(meta.mtime()).unwrap_or(0), u32::try_from(meta.mtime_nsec()).unwrap_or(0));
        Ok(FileAttr {
            ino,
            size: meta.len(),
            blocks: meta.blocks(),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if index.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm: if index.is_some() { 0o444 } else { 0o555 },
            nlink: 1,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// Another file under the same name has another number, as on a disk: of the one before, the kernel may still wait for reads.
fn number(index: usize, path: &Path) -> io::Result<INodeNo> {
    Ok(INodeNo(fs::metadata(path)?.ino().wrapping_mul(FILES) + index as u64 + 2))
}

fn answer(path: &Path, offset: u64, size: u32, reply: ReplyData) {
    let mut bytes = vec![0; size as usize];
    match File::open(path).and_then(|file| file.read_at(&mut bytes, offset)) {
        Ok(count) => reply.data(&bytes[..count]),
        Err(_) => reply.error(Errno::EIO),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|file| file.file_name() == Some(name));
        match found.map(|index| self.attributes(number(index, &self.files[index])?)) {
            Some(Ok(attributes)) => reply.entry(&TTL, &attributes, Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(_) => reply.error(Errno::ENOENT),
        }
    }

    /// Past the page cache, so that every read of the product is a read here.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(index) = self.index(ino) else { return reply.error(Errno::EISDIR) };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.read |= offset >= HEADERS;
        match state.mode {
            Mode::Hang(from) if offset >= from => state.held.push((index, offset, size, reply)),
            Mode::Fail if offset >= HEADERS => reply.error(Errno::EIO),
            Mode::Slow(rate) if offset >= HEADERS => {
                drop(state);
                // the disk's own time: one thread answers, so that reads wait for each other
                std::thread::sleep(Duration::from_secs(1).mul_f64(f64::from(size) / f64::from(rate)));
                answer(&self.files[index], offset, size, reply);
            }
            Mode::End(end) => {
                let left = u32::try_from(end.saturating_sub(offset)).unwrap_or(u32::MAX);
                answer(&self.files[index], offset, size.min(left), reply);
            }
            _ => answer(&self.files[index], offset, size, reply),
        }
    }

    /// A file is closed, which waits for the answer.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.mode == Mode::HangClosing && state.read { state.closing.push(reply) } else { reply.ok() }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        // an entry's offset is the number of the file behind it
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, file) in self.files.iter().enumerate().skip(first) {
            let (Some(name), Ok(ino)) = (file.file_name(), number(index, file)) else { continue };
            if reply.add(ino, index as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
