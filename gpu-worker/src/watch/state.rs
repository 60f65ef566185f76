//! What the watches know of their roots, for scans, the status and the metrics.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use shared::status::RootWatch;
use tokio::sync::{mpsc, oneshot};

/// A file without a write for so long is no longer taken for unfinished, though nobody has closed it.
pub(super) const UNFINISHED_FOR: Duration = Duration::from_secs(60);

/// Scans that may wait for one watch.
const REQUESTS: usize = 16;
/// How long a scan waits for a watch that walks its root just now.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);

/// How a root is watched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The kernel tells.
    Inotify,
    /// It is walked from time to time.
    Poll,
    /// It is not: scans are periodic or asked for.
    Off,
    /// It is waited for.
    Missing,
}

impl Way {
    const ALL: [Self; 4] = [Self::Inotify, Self::Poll, Self::Off, Self::Missing];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Poll => "poll",
            Self::Off => "off",
            Self::Missing => "missing",
        }
    }
}

#[derive(Debug)]
struct State {
    way: Way,
    reason: Option<String>,
    folders: u64,
    changed_at: Option<DateTime<Utc>>,
    scans: u64,
    /// Files that are being written, with the time of the last write that was seen.
    writing: HashMap<PathBuf, Instant>,
    /// The way to a watch that can be made to read what the kernel has told so far.
    requests: Option<mpsc::Sender<oneshot::Sender<()>>>,
}

/// All watches of a host. All methods are quick.
#[derive(Debug)]
pub struct Watches {
    roots: Mutex<BTreeMap<String, State>>,
    ways: IntGaugeVec,
    scans: IntCounter,
    overflows: IntCounter,
}

impl Watches {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// When a metric's name is registered twice.
    pub fn new(roots: impl Iterator<Item = String>, registry: &Registry) -> prometheus::Result<Self> {
        let state = || State {
            way: Way::Off,
            reason: None,
            folders: 0,
            changed_at: None,
            scans: 0,
            writing: HashMap::new(),
            requests: None,
        };
        let watches = Self {
            roots: Mutex::new(roots.map(|root| (root, state())).collect()),
            ways: IntGaugeVec::new(
                Opts::new("modelyard_watched_roots", "Roots by the way that they are watched now."),
                &["way"],
            )?,
            scans: IntCounter::new("modelyard_watch_scans_total", "Scans that watches asked for.")?,
            overflows: IntCounter::new(
                "modelyard_watch_overflows_total",
                "Times the kernel dropped events; the root is then scanned as a whole.",
            )?,
        };
        registry.register(Box::new(watches.ways.clone()))?;
        registry.register(Box::new(watches.scans.clone()))?;
        registry.register(Box::new(watches.overflows.clone()))?;
        watches.count(&watches.lock());
        Ok(watches)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, roots: &BTreeMap<String, State>) {
        for way in Way::ALL {
            let count = roots.values().filter(|state| state.way == way).count();
            self.ways.with_label_values(&[way.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn update(&self, root: &str, change: impl FnOnce(&mut State)) {
        let mut roots = self.lock();
        if let Some(state) = roots.get_mut(root) {
            change(state);
            self.count(&roots);
        }
    }

    /// The root is watched this way from now on.
    pub(super) fn set(&self, root: &str, way: Way, reason: Option<String>) {
        self.update(root, |state| {
            state.way = way;
            state.reason = reason;
            state.folders = 0;
            state.writing.clear();
            state.requests = None;
        });
    }

    /// Requests of scans to read what the kernel has told so far, for the watch that is there from now on.
    pub(super) fn requests(&self, root: &str) -> mpsc::Receiver<oneshot::Sender<()>> {
        let (sender, receiver) = mpsc::channel(REQUESTS);
        self.update(root, |state| state.requests = Some(sender));
        receiver
    }

    /// Waits until the watch has read what the kernel told before this call, so that [`Self::being_written`] knows every file
    /// that a walk before it can have found. A watch that is busy for long is not waited for.
    pub async fn settle(&self, root: &str) {
        let requests = self.lock().get(root).and_then(|state| state.requests.clone());
        let (done, answer) = oneshot::channel();
        if requests.is_some_and(|requests| requests.try_send(done).is_ok())
            && tokio::time::timeout(SETTLE_PATIENCE, answer).await.is_err()
        {
            tracing::warn!(
                root,
                "the watch did not answer; a file that is being written may be listed before it is whole"
            );
        }
    }

    /// So many folders are watched.
    pub(super) fn folders(&self, root: &str, count: usize) {
        self.update(root, |state| state.folders = count as u64);
    }

    /// Something changed below the root.
    pub(super) fn changed(&self, root: &str) {
        self.update(root, |state| state.changed_at = Some(Utc::now()));
    }

    /// A scan was asked for.
    pub(super) fn asked(&self, root: &str) {
        self.scans.inc();
        self.update(root, |state| state.scans += 1);
    }

    /// The kernel dropped events.
    pub(super) fn overflowed(&self, root: &str) {
        self.overflows.inc();
        self.update(root, |state| state.writing.clear());
    }

    /// Somebody wrote to a file.
    pub(super) fn written(&self, root: &str, path: PathBuf, now: Instant) {
        self.update(root, |state| {
            state.writing.insert(path, now);
        });
    }

    /// Nobody writes to a file any more.
    pub(super) fn finished(&self, root: &str, path: &std::path::Path) {
        self.update(root, |state| {
            state.writing.remove(path);
        });
    }

    /// These, and no others, are being written.
    pub(super) fn set_writing(&self, root: &str, paths: HashSet<PathBuf>, now: Instant) {
        self.update(root, |state| state.writing = paths.into_iter().map(|path| (path, now)).collect());
    }

    /// Takes out files without a write for too long: true when there were any, and the time at which that happens next.
    pub(super) fn expire(&self, root: &str, now: Instant) -> (bool, Option<Instant>) {
        let (mut expired, mut next) = (false, None);
        self.update(root, |state| {
            let before = state.writing.len();
            state.writing.retain(|_, last| *last + UNFINISHED_FOR > now);
            expired = state.writing.len() < before;
            next = state.writing.values().min().map(|last| *last + UNFINISHED_FOR);
        });
        (expired, next)
    }

    /// Files below a root that somebody is writing.
    pub fn being_written(&self, root: &str) -> HashSet<PathBuf> {
        let roots = self.lock();
        roots.get(root).map(|state| state.writing.keys().cloned().collect()).unwrap_or_default()
    }

    /// The state of every watch, for the status.
    pub fn views(&self) -> Vec<RootWatch> {
        let view = |(root, state): (&String, &State)| RootWatch {
            root: root.clone(),
            way: state.way.as_str().to_owned(),
            reason: state.reason.clone(),
            folders: state.folders,
            changed_at: state.changed_at,
            scans: state.scans,
        };
        self.lock().iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_unfinished_until_it_is_closed_or_left_alone_for_long() {
        let watches = Watches::new(["main".to_owned()].into_iter(), &Registry::new()).unwrap();
        let start = Instant::now();
        let path = PathBuf::from("/m/a.safetensors");
        watches.written("main", path.clone(), start);
        assert!(watches.being_written("main").contains(&path) && watches.being_written("other").is_empty());
        watches.finished("main", &path);
        assert!(watches.being_written("main").is_empty());
        watches.written("main", path, start);
        assert_eq!(watches.expire("main", start), (false, Some(start + UNFINISHED_FOR)));
        assert_eq!(watches.expire("main", start + UNFINISHED_FOR), (true, None));
    }
}
