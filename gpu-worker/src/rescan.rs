//! Scans that failed work asks for: it met another file than the catalogue has, which is found out whether the root is watched or not.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use model_formats::{ErrorKind, FormatError};
use residency::ResidencyError;
use shared::error::chain;
use tokio::sync::Notify;

use crate::{
    config::Root,
    context::Agent,
    error::WorkError,
    lease::Standing,
    watch::{Asked, submit},
};

/// Shortest time between two scans of a root that failed work asks for.
const PAUSE: Duration = Duration::from_secs(5);
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
}

impl Plan {
    fn want(&mut self, root: &str, now: Instant) {
        let earliest = self.asked.get(root).map_or(now, |asked| (*asked + PAUSE).max(now));
        self.wanted.entry(root.to_owned()).or_insert(earliest);
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
    pub fn note(&self, roots: &[Root], error: &WorkError) {
        let Some(root) = met(error).and_then(|path| root_of(roots, path)) else { return };
        tracing::info!(root = root.name, error = %chain(error), "the catalogue is behind the disk");
        self.plan().want(&root.name, Instant::now());
        self.told.notify_one();
    }
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

/// The file that is another one than the catalogue has, or none any more, if that is why the work failed.
fn met(error: &WorkError) -> Option<&Path> {
    match error {
        WorkError::Changed { path, .. } => Some(Path::new(path)),
        WorkError::Format { path, source } => is_other(source).then(|| Path::new(path)),
        WorkError::Residency(ResidencyError::Changed(changed)) => Some(&changed.path),
        WorkError::Residency(
            ResidencyError::Missing { path }
            | ResidencyError::NotRegular { path, .. }
            | ResidencyError::OutOfBounds { path, .. },
        ) => Some(path),
        _ => None,
    }
}

/// The file went, changed while it was read, or has a header that no scan would have accepted.
fn is_other(error: &FormatError) -> bool {
    matches!(error, FormatError::Changed { .. }) || matches!(error.kind(), ErrorKind::Missing | ErrorKind::Corrupt)
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
        assert_eq!(plan.next(), None);
        plan.want("main", start);
        plan.want("main", start + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("main".to_owned(), start)), "the first failure counts");
        plan.put_off("main", start + ASK_AGAIN);
        plan.want("main", start);
        assert_eq!(plan.next(), Some(("main".to_owned(), start + ASK_AGAIN)), "a scan runs: it is not asked sooner");
        plan.settle("main", start);
        assert_eq!(plan.next(), None);
        plan.want("main", start + ASK_AGAIN);
        plan.want("other", start + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("other".to_owned(), start + ASK_AGAIN)), "each root for itself");
        plan.settle("other", start + ASK_AGAIN);
        assert_eq!(plan.next(), Some(("main".to_owned(), start + PAUSE)), "put off, not forgotten");
        plan.settle("main", start + PAUSE);
        plan.want("main", start + PAUSE * 3);
        assert_eq!(plan.next(), Some(("main".to_owned(), start + PAUSE * 3)));
    }

    #[test]
    fn only_another_file_leads_to_a_scan_and_of_its_own_root() {
        let root = |name: &str, path: &str| Root { name: name.into(), path: path.into() };
        let roots = [root("main", "/lib"), root("inner", "/lib/inner"), root("far", "/lib2")];
        let of = |error: &WorkError| met(error).and_then(|path| root_of(&roots, path)).map(|root| root.name.as_str());
        let changed = |path: &str| WorkError::Changed { path: path.into(), what: "it was written to".into() };
        assert_eq!(of(&changed("/lib/a.safetensors")), Some("main"));
        assert_eq!(of(&changed("/lib/inner/a.safetensors")), Some("inner"));
        assert_eq!(of(&changed("/elsewhere/a.safetensors")), None);
        let gone = WorkError::Residency(ResidencyError::Missing { path: "/lib2/a.ckpt".into() });
        assert_eq!(of(&gone), Some("far"));
        assert_eq!(of(&WorkError::Cancelled), None);
        let stalled = WorkError::Residency(ResidencyError::Stalled { path: "/lib/a".into(), seconds: 3 });
        assert_eq!(of(&stalled), None, "a disk that is silent says nothing of the file");
    }
}
