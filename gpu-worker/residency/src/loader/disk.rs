//! The disks that loads read from: what kind each is, how many reads it is given at a time over all loads, what was learnt.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::fs::fstatfs;

use super::{
    gate::{Gate, Turn},
    tuning::Tuning,
};

/// Reads that all loads together may have under way on a local disk.
const LOCAL_MAX: usize = 16;
/// The same where every read is a round trip to a server that others use too, and for files that are memory already.
const REMOTE_MAX: usize = 4;
/// Smaller loads say little about a disk.
const TEACHES: u64 = 128 << 20;

/// What a file system is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A disk of this machine.
    Local,
    /// A server, or a program: NFS, SMB, Ceph, FUSE and their like. Read through the page cache, whose read-ahead hides
    /// the round trips.
    Remote,
    /// Memory.
    Memory,
}

impl Kind {
    /// From the magic number of `statfs`.
    fn of_magic(magic: u64) -> Self {
        match magic & 0xffff_ffff {
            // NFS, SMB, CIFS, SMB2, Ceph, FUSE, 9P, AFS, kAFS, Coda, NCP, Lustre, GPFS, BeeGFS, OCFS2, GFS2, PanFS
            0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x00c3_6400 | 0x6573_5546 | 0x0102_1997 | 0x5346_414f
            | 0x6b41_4653 | 0x7375_7245 | 0x564c | 0x0bd0_0bd0 | 0x4750_4653 | 0x1983_0326 | 0x7461_636f
            | 0x0116_1970 | 0xaad7_aaea => Self::Remote,
            // tmpfs, ramfs
            0x0102_1994 | 0x8584_58f6 => Self::Memory,
            _ => Self::Local,
        }
    }
}

/// All disks that a tier has read from, by device number. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Disks(Arc<Mutex<BTreeMap<u64, Arc<Disk>>>>);

impl Disks {
    /// The disk of an open file.
    ///
    /// # Errors
    /// What the file system answers.
    pub(super) fn of(&self, file: &File) -> io::Result<Arc<Disk>> {
        let device = file.metadata()?.dev();
        let kind = Kind::of_magic(fstatfs(file)?.f_type.cast_unsigned());
        let mut disks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(disks.entry(device).or_insert_with(|| Arc::new(Disk::new(kind))).clone())
    }
}

/// One disk.
#[derive(Debug)]
pub(super) struct Disk {
    kind: Kind,
    gate: Gate,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Loads that read from it now.
    loads: usize,
    /// Loads that ever began: tells whether another began meanwhile.
    begun: u64,
    tuning: Tuning,
}

impl Disk {
    fn new(kind: Kind) -> Self {
        let most = if kind == Kind::Local { LOCAL_MAX } else { REMOTE_MAX };
        Self { kind, gate: Gate::new(most), state: Mutex::default() }
    }

    /// What it is.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn to read, within what the disk is given over all loads; none when it is not wanted any more.
    pub(super) fn turn(&self, wanted: impl Fn() -> bool) -> Option<Turn<'_>> {
        self.gate.turn(wanted)
    }

    /// A load begins; `fixed` readers if the caller chose, else as many as proved best.
    pub(super) fn begin(self: &Arc<Self>, fixed: Option<usize>) -> Session {
        let mut state = self.state();
        let best = if self.kind == Kind::Local { state.tuning.readers() } else { REMOTE_MAX };
        state.loads += 1;
        state.begun += 1;
        let alone = (state.loads == 1).then_some(state.begun);
        drop(state);
        Session { disk: self.clone(), readers: fixed.unwrap_or(best), alone }
    }
}

/// One load on its disk.
#[derive(Debug)]
pub(super) struct Session {
    disk: Arc<Disk>,
    readers: usize,
    /// The count of loads when it began, if no other ran then.
    alone: Option<u64>,
}

impl Session {
    /// Reads that it may have under way.
    pub(super) fn readers(&self) -> usize {
        self.readers
    }

    /// The load read so many bytes around the page cache in this time. Teaches the disk's best number of
    /// readers, if no other load shared the disk.
    pub(super) fn learn(&self, bytes: u64, took: Duration) {
        let mut state = self.disk.state();
        if bytes >= TEACHES && self.alone == Some(state.begun) && !took.is_zero() {
            state.tuning.record(self.readers, bytes as f64 / took.as_secs_f64());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.loads = state.loads.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_memory_are_told_from_disks() {
        let of = |magic: i64| Kind::of_magic(magic.cast_unsigned());
        assert_eq!(of(0xef53), Kind::Local);
        assert_eq!(of(0x6969), Kind::Remote);
        // where the field is 32 bits wide the sign is extended
        assert_eq!(of(i64::from(0xfe53_4d42_u32.cast_signed())), Kind::Remote);
        assert_eq!(of(0x0102_1994), Kind::Memory);
    }

    #[test]
    fn only_a_load_that_had_the_disk_for_itself_teaches() {
        let disk = Arc::new(Disk::new(Kind::Local));
        let second = Duration::from_secs(1);
        let first = disk.begin(None);
        let other = disk.begin(None);
        first.learn(TEACHES, second);
        other.learn(TEACHES, second);
        drop((first, other));
        assert_eq!(disk.state().tuning, Tuning::default());
        let small = disk.begin(None);
        small.learn(TEACHES - 1, second);
        assert_eq!(disk.state().tuning, Tuning::default());
        small.learn(TEACHES, second);
        assert_ne!(disk.state().tuning, Tuning::default());
    }

    #[test]
    fn a_caller_may_fix_the_readers() {
        let disk = Arc::new(Disk::new(Kind::Local));
        assert_eq!(disk.begin(Some(3)).readers(), 3);
        assert_eq!(Arc::new(Disk::new(Kind::Remote)).begin(None).readers(), REMOTE_MAX);
    }
}
