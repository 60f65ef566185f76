//! Scans that failed work asks for: it met another file than the catalogue has, which is found out whether the root is watched or not.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use model_formats::{ErrorKind, FormatError};
use residency::{FileIdentity, ResidencyError};
use shared::{
    db::models::{self, FileKey},
    error::chain,
};
use tokio::sync::Notify;

use crate::{
    config::Root,
    context::Agent,
    error::WorkError,
    executors::facts,
    judge,
    lease::Standing,
    watch::{Asked, submit},
};

/// Shortest time between two scans of a root that failed work asks for.
const PAUSE: Duration = Duration::from_secs(5);
/// The same file leads to scans ever less often, up to this: they do not help. Left alone for so long, it is as good as new.
const LONGEST: Duration = Duration::from_secs(3600);
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Most files that are remembered with the scans they led to.
const MANY: usize = 1000;
/// Longest look at a disk that answered a moment ago.
const LOOK: Duration = Duration::from_secs(5);
/// Time until a scan is asked for again when one runs, and when the database does not answer or the agent drains.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

/// The roots of this host that a scan is to be asked for.
#[derive(Debug, Default)]
pub struct Rescans {
    plan: Mutex<Plan>,
    told: Notify,
}

/// Which roots wait for a scan, and when they may have one.
#[derive(Debug, Default)]
struct Plan {
    wanted: BTreeMap<String, Instant>,
    asked: BTreeMap<String, Instant>,
    files: BTreeMap<PathBuf, Pace>,
}

/// How often one file may lead to a scan.
#[derive(Debug)]
struct Pace {
    pause: Duration,
    next: Instant,
}

impl Plan {
    fn want(&mut self, root: &str, file: &Path, now: Instant) {
        let earliest = self.asked.get(root).map_or(now, |asked| (*asked + PAUSE).max(now));
        let earliest = self.pace(file, earliest, now);
        let planned = self.wanted.entry(root.to_owned()).or_insert(earliest);
        if *planned > now + LATER {
            *planned = earliest.min(*planned);
        }
    }

    /// When a file that would lead to a scan at `at` may do so.
    fn pace(&mut self, file: &Path, at: Instant, now: Instant) -> Instant {
        if self.files.len() >= MANY {
            self.files.retain(|_, pace| now < pace.next + FORGOTTEN);
        }
        if self.files.len() >= MANY {
            self.files.pop_first();
        }
        let (at, pause) = match self.files.get(file) {
            Some(pace) if now < pace.next => return pace.next.max(at),
            Some(pace) if now < pace.next + FORGOTTEN => (at, (pace.pause * 2).min(LONGEST)),
            _ => (at, PAUSE),
        };
        self.files.insert(file.to_owned(), Pace { pause, next: at + pause });
        at
    }

    /// The root that is due first, and when.
    fn next(&self) -> Option<(String, Instant)> {
        self.wanted.iter().min_by_key(|(_, at)| **at).map(|(root, at)| (root.clone(), *at))
    }

    /// A scan that begins after this will see everything.
    fn settle(&mut self, root: &str, now: Instant) {
        self.wanted.remove(root);
        self.asked.insert(root.to_owned(), now);
    }

    fn put_off(&mut self, root: &str, until: Instant) {
        self.wanted.insert(root.to_owned(), until);
    }
}

impl Rescans {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of why work failed; when that was another file than the catalogue has, its root is scanned soon.
    pub async fn note(&self, agent: &Agent, error: &WorkError) {
        let Some(met) = met(error) else { return };
        let Some(root) = root_of(&agent.roots, met.path()) else { return };
        if let Met::Doubtful(path) = met
            && !is_behind(agent, root, path).await
        {
            return;
        }
        tracing::info!(root = root.name, error = %chain(error), "the catalogue is behind the disk");
        self.plan().want(&root.name, met.path(), Instant::now());
        self.told.notify_one();
    }
}

/// Whether the files that a path belongs to are others than the catalogue has. What cannot be told is not: a scan of files that are as
/// they were finds nothing, and what follows it would fail as before.
async fn is_behind(agent: &Agent, root: &Root, path: &Path) -> bool {
    let Some(below) = path.strip_prefix(&root.path).ok().and_then(Path::to_str) else { return false };
    let around = match models::files_around(&agent.pool, &agent.host, &root.name, below).await {
        Ok(around) => around,
        Err(error) => {
            tracing::warn!(root = root.name, error = %chain(&error), "cannot tell whether the catalogue is behind the disk");
            return false;
        }
    };
    let root = root.path.clone();
    let look = tokio::task::spawn_blocking(move || {
        around.iter().any(|(model, files)| files.iter().any(|file| is_other_now(&root.join(model), file)))
    });
    matches!(tokio::time::timeout(LOOK, look).await, Ok(Ok(true)))
}

/// Whether a file of a model has another identity than the catalogue knows, or is gone.
fn is_other_now(model: &Path, file: &models::FileIdentity) -> bool {
    let now = FileIdentity::of(&facts(model, file).path);
    now.map_or(true, |now| judge::key_of(&now) != FileKey::from(file))
}

/// Asks for the scans, until it is dropped. One root has at most one in a while, however much work fails.
pub async fn ask(agent: Arc<Agent>, standing: Standing) {
    loop {
        let next = agent.rescans.plan().next();
        let Some((root, at)) = next else {
            agent.rescans.told.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {}
            () = agent.rescans.told.notified() => continue,
        }
        let asked = if standing.is_draining() { None } else { Some(submit(&agent, &root).await) };
        let now = Instant::now();
        let mut plan = agent.rescans.plan();
        match asked {
            Some(Ok(Asked::New | Asked::Waits)) => plan.settle(&root, now),
            // it may have passed the file already
            Some(Ok(Asked::Runs)) => plan.put_off(&root, now + ASK_AGAIN),
            Some(Err(error)) => {
                tracing::warn!(root, error = %chain(&error), "cannot ask for a scan; trying again");
                plan.put_off(&root, now + LATER);
            }
            None => plan.put_off(&root, now + LATER),
        }
    }
}

/// A file that may be another one than the catalogue has.
#[derive(Debug, Clone, Copy)]
enum Met<'e> {
    /// It is another one, or none any more.
    Other(&'e Path),
    /// It has a header that no scan would have accepted: it is another one, or the same and went bad, which a scan cannot mend.
    Doubtful(&'e Path),
}

impl<'e> Met<'e> {
    fn path(self) -> &'e Path {
        match self {
            Self::Other(path) | Self::Doubtful(path) => path,
        }
    }
}

/// The file that work failed for, if it may be another one than the catalogue has.
fn met(error: &WorkError) -> Option<Met<'_>> {
    match error {
        WorkError::Changed { path, .. } => Some(Met::Other(Path::new(path))),
        WorkError::NoComponent { path, .. } => Some(Met::Doubtful(Path::new(path))),
        WorkError::Format { path, source } => match (source, source.kind()) {
            (FormatError::Changed { .. } | FormatError::NotRegular { .. }, _) | (_, ErrorKind::Missing) => {
                Some(Met::Other(Path::new(path)))
            }
            (_, ErrorKind::Corrupt) => Some(Met::Doubtful(Path::new(path))),
            _ => None,
        },
        WorkError::Residency(ResidencyError::Changed(changed)) => Some(Met::Other(&changed.path)),
        WorkError::Residency(ResidencyError::Missing { path } | ResidencyError::NotRegular { path, .. }) => {
            Some(Met::Other(path))
        }
        WorkError::Residency(ResidencyError::OutOfBounds { path, .. }) => Some(Met::Doubtful(path)),
        _ => None,
    }
}

/// The root that a path is below; of several the innermost.
fn root_of<'r>(roots: &'r [Root], path: &Path) -> Option<&'r Root> {
    let above = roots.iter().filter(|root| path.starts_with(&root.path));
    above.max_by_key(|root| root.path.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_scanned_at_once_and_then_not_again_for_a_while() {
        let start = Instant::now();
        let mut plan = Plan::default();
        let mut number = 0;
        let mut want = |plan: &mut Plan, root: &str, now| {
            number += 1;
            plan.want(root, Path::new(&format!("/lib/{number}")), now);
        };
        assert_eq!(plan.next(), None);
        want(&mut plan, "main", start);
        want(&mut plan, "main", start + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("main".to_owned(), start)), "the first failure counts");
        plan.put_off("main", start + ASK_AGAIN);
        want(&mut plan, "main", start);
        assert_eq!(plan.next(), Some(("main".to_owned(), start + ASK_AGAIN)), "a scan runs: it is not asked sooner");
        plan.settle("main", start);
        assert_eq!(plan.next(), None);
        want(&mut plan, "main", start + ASK_AGAIN);
        want(&mut plan, "other", start + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("other".to_owned(), start + ASK_AGAIN)), "each root for itself");
        plan.settle("other", start + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("main".to_owned(), start + PAUSE)), "put off, not forgotten");
        plan.settle("main", start + PAUSE);
        want(&mut plan, "main", start + PAUSE * 3);
        assert_eq!(plan.next(), Some(("main".to_owned(), start + PAUSE * 3)));
    }

    #[test]
    fn a_file_that_scans_do_not_help_leads_to_ever_fewer() {
        let start = Instant::now();
        let (file, mut plan, mut now) = (Path::new("/lib/a"), Plan::default(), start);
        let mut scans = 0;
        // it fails again a second after each scan, and others ask in between
        while now < start + Duration::from_secs(24 * 3600) {
            plan.want("main", file, now);
            plan.want("main", file, now);
            now = plan.next().expect("a scan").1;
            plan.settle("main", now);
            scans += 1;
            now += ASK_AGAIN;
        }
        assert!((20..70).contains(&scans), "{scans} in a day");
        now += LONGEST + FORGOTTEN * 2;
        plan.want("main", file, now);
        assert_eq!(plan.next(), Some(("main".to_owned(), now)), "left alone for long");
        plan.settle("main", now);
        now += PAUSE * 2;
        plan.want("main", file, now);
        plan.settle("main", now);
        plan.want("main", file, now);
        plan.want("main", Path::new("/lib/b"), now + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("main".to_owned(), now + PAUSE)), "another file does not wait for it");
        for number in 0..MANY * 2 {
            plan.want("main", Path::new(&format!("/lib/{number}")), now);
        }
        assert!(plan.files.len() <= MANY);
    }

    #[test]
    fn only_another_file_leads_to_a_scan_and_of_its_own_root() {
        let root = |name: &str, path: &str| Root { name: name.into(), path: path.into() };
        let roots = [root("main", "/lib"), root("inner", "/lib/inner"), root("far", "/lib2")];
        let of =
            |error: &WorkError| met(error).and_then(|met| root_of(&roots, met.path())).map(|root| root.name.as_str());
        let changed = |path: &str| WorkError::Changed { path: path.into(), what: "it was written to".into() };
        assert_eq!(of(&changed("/lib/a.safetensors")), Some("main"));
        assert_eq!(of(&changed("/lib/inner/a.safetensors")), Some("inner"));
        assert_eq!(of(&changed("/elsewhere/a.safetensors")), None);
        let gone = WorkError::Residency(ResidencyError::Missing { path: "/lib2/a.ckpt".into() });
        assert_eq!(of(&gone), Some("far"));
        assert_eq!(of(&WorkError::Cancelled), None);
        let format = |source| WorkError::Format { path: "/lib/a.safetensors".into(), source };
        let rotten = format(FormatError::HeaderStart { path: "/lib/a.safetensors".into() });
        assert!(matches!(met(&rotten), Some(Met::Doubtful(_))), "it is looked at first");
        let cut = WorkError::Residency(ResidencyError::OutOfBounds {
            path: "/lib/a".into(),
            tensor: "w".into(),
            end: 2,
            file_bytes: 1,
        });
        assert!(matches!(met(&cut), Some(Met::Doubtful(_))));
        let pipe = format(FormatError::NotRegular { path: "/lib/a.safetensors".into(), what: "a pipe" });
        assert!(matches!(met(&pipe), Some(Met::Other(_))));
        let stalled = WorkError::Residency(ResidencyError::Stalled { path: "/lib/a".into(), seconds: 3 });
        assert_eq!(of(&stalled), None, "a disk that is silent says nothing of the file");
    }
}
