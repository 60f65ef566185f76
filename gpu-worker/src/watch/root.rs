//! The watch of one root: which way, what it sees, when it asks for a scan, and what happens when the root goes and comes back.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use shared::{db::models, error::chain};

use super::{
    Options,
    debounce::Debounce,
    inotify::{Event, Tree},
    network::network_of,
    poll::Look,
    state::Way,
    submit::{Asked, submit},
};
use crate::{
    config::{Root, WatchMode},
    context::Agent,
    lease::Standing,
};

/// The latest time after a change at which a scan is asked for, though changes go on.
const LONGEST: Duration = Duration::from_secs(30);
/// Time between looks at whether the root is still the same folder, and between looks for one that is gone.
const CHECK: Duration = Duration::from_secs(1);
/// Events of this time are taken together.
const SETTLE: Duration = Duration::from_millis(50);
/// Shortest time between walks that look for new folders.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);
/// After so long the kernel is asked again for what it refused.
const RETRY_INOTIFY: Duration = Duration::from_secs(600);
/// Time until a scan is asked for again when one runs, and when the database does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const DATABASE_AGAIN: Duration = Duration::from_secs(5);

/// Why one way of watching ended.
#[derive(Debug)]
enum End {
    /// The root is not there, or is another folder now.
    Gone(String),
    /// The kernel does not tell of this root.
    Unable(String),
    /// It is time to ask the kernel again.
    Again,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Watch {
    agent: Arc<Agent>,
    standing: Standing,
    root: Root,
    options: Options,
    pending: Debounce,
    /// Not before this.
    ask_at: Option<Instant>,
    /// Why the kernel's events were not enough, and since when.
    unable: Option<(String, Instant)>,
}

impl Watch {
    pub(super) fn new(agent: Arc<Agent>, standing: Standing, root: Root, options: Options) -> Self {
        let pending = Debounce::new(options.quiet, LONGEST.max(options.quiet));
        Self { agent, standing, root, options, pending, ask_at: None, unable: None }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            match self.once().await {
                End::Gone(reason) => self.until_back(reason).await,
                End::Unable(reason) => self.unable = Some((reason, Instant::now())),
                End::Again => self.unable = None,
            }
        }
    }

    async fn once(&mut self) -> End {
        if let Some((reason, since)) = self.unable.clone() {
            return self.by_polling(Some(reason), Some(since + RETRY_INOTIFY)).await;
        }
        if self.options.mode == WatchMode::Poll {
            return self.by_polling(None, None).await;
        }
        match (self.options.mode, network_of(&self.root.path)) {
            (_, Err(error)) => End::Gone(error.to_string()),
            (WatchMode::Auto, Ok(Some(name))) => {
                let reason = format!("{name}: the kernel is not told of what other machines write there");
                self.by_polling(Some(reason), None).await
            }
            _ => self.by_inotify().await,
        }
    }

    async fn by_inotify(&mut self) -> End {
        let mut tree = match Tree::new() {
            Ok(tree) => tree,
            Err(error) => return End::Unable(limit(&error)),
        };
        let identity = match self.identity() {
            Ok(identity) => identity,
            Err(error) => return End::Gone(error.to_string()),
        };
        self.agent.watches.set(&self.root.name, Way::Inotify, None);
        let mut requests = self.agent.watches.requests(&self.root.name);
        if let Err(end) = self.follow(&mut tree).await {
            return end;
        }
        tracing::info!(root = self.root.name, "watching by inotify");
        // what changed before the folders were watched
        self.pending.touch(Instant::now());
        let (mut followed, mut new_folders) = (Instant::now(), false);
        loop {
            let now = Instant::now();
            let (expired, expires) = self.agent.watches.expire(&self.root.name, now);
            if expired {
                self.pending.touch(now);
            }
            let due = self.is_due(now);
            if due || (new_folders && followed + FOLLOW_PAUSE <= now) {
                match self.identity() {
                    Ok(now) if now == identity => {}
                    Ok(_) => return End::Gone("another folder is in its place".to_owned()),
                    Err(error) => return End::Gone(error.to_string()),
                }
                // before the scan walks: what is written behind its back is then told of
                if let Err(end) = self.follow(&mut tree).await {
                    return end;
                }
                (followed, new_folders) = (Instant::now(), false);
            }
            if due {
                self.ask(now).await;
            }
            let next_walk = new_folders.then_some(followed + FOLLOW_PAUSE);
            let wake = [self.next_ask(), expires, next_walk].into_iter().flatten().fold(now + CHECK, Instant::min);
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {
                    if self.identity().ok() != Some(identity) {
                        return End::Gone("it was moved or removed".to_owned());
                    }
                }
                Some(asked) = requests.recv() => match tree.waiting() {
                    Ok(events) => {
                        new_folders |= self.note(events);
                        // a scan that was stopped meanwhile waits no more
                        let _ = asked.send(());
                    }
                    Err(error) => return End::Unable(format!("events cannot be read: {error}")),
                },
                events = tree.events() => match events {
                    Ok(events) => {
                        new_folders |= self.note(events);
                        tokio::time::sleep(SETTLE).await;
                    }
                    Err(error) => return End::Unable(format!("events cannot be read: {error}")),
                },
            }
        }
    }

    /// Takes note of events; true when there are folders that are not watched yet.
    fn note(&mut self, events: Vec<Event>) -> bool {
        let (watches, name, now) = (&self.agent.watches, &self.root.name, Instant::now());
        let mut folders = false;
        if events.is_empty() {
            return false;
        }
        for event in events {
            match event {
                Event::Written(path) => watches.written(name, path, now),
                Event::Changed(path) => watches.finished(name, &path),
                Event::Folders => folders = true,
                Event::Overflow => {
                    tracing::warn!(root = name, "the kernel dropped events; the root will be scanned as a whole");
                    watches.overflowed(name);
                    folders = true;
                }
            }
        }
        watches.changed(name);
        self.pending.touch(now);
        folders
    }

    /// Watches the folders that a scan would enter.
    async fn follow(&self, tree: &mut Tree) -> Result<(), End> {
        let (root, others) = (self.root.path.clone(), self.others());
        let token = self.agent.tasks.token().clone();
        let walk = move || model_formats::discover_within(&root, &others, &|| token.is_cancelled());
        let folders = match tokio::task::spawn_blocking(walk).await {
            Ok(Ok(discovery)) => discovery.folders,
            Ok(Err(error)) => return Err(End::Gone(chain(&error))),
            Err(error) => return Err(End::Unable(format!("it cannot be walked: {error}"))),
        };
        if self.options.mode == WatchMode::Auto
            && let Some((folder, name)) = self.network_below(&folders)
        {
            return Err(End::Unable(format!("`{}` is on {name}", folder.display())));
        }
        let count = tree.follow(&folders).map_err(|error| End::Unable(limit(&error)))?;
        self.agent.watches.folders(&self.root.name, count);
        Ok(())
    }

    /// A folder below the root that is mounted from elsewhere.
    fn network_below(&self, folders: &[PathBuf]) -> Option<(PathBuf, &'static str)> {
        let mut known = std::collections::HashSet::new();
        folders.iter().find_map(|folder| {
            let device = std::fs::metadata(folder).ok()?.dev();
            let name = known.insert(device).then(|| network_of(folder).ok().flatten()).flatten()?;
            Some((folder.clone(), name))
        })
    }

    async fn by_polling(&mut self, reason: Option<String>, until: Option<Instant>) -> End {
        match &reason {
            Some(reason) => tracing::warn!(root = self.root.name, reason, "watching by walking from time to time"),
            None => tracing::info!(root = self.root.name, "watching by walking from time to time"),
        }
        self.agent.watches.set(&self.root.name, Way::Poll, reason);
        let mut before: Option<Look> = None;
        loop {
            let (root, others) = (self.root.path.clone(), self.others());
            let token = self.agent.tasks.token().clone();
            let walk = move || Look::at(&root, &others, &|| token.is_cancelled());
            let look = match tokio::task::spawn_blocking(walk).await {
                Ok(Ok(look)) => look,
                Ok(Err(error)) => return End::Gone(chain(&error)),
                Err(error) => return End::Gone(format!("it cannot be walked: {error}")),
            };
            let now = Instant::now();
            self.compare(before.as_ref(), &look, now);
            before = Some(look);
            if self.is_due(now) {
                self.ask(now).await;
            }
            if until.is_some_and(|until| until <= now) {
                return End::Again;
            }
            // once something changed, its end is not waited for as long as for the next change
            let pause = self.next_ask().map_or(self.options.poll, |_| self.options.quiet.min(self.options.poll));
            tokio::time::sleep(pause).await;
        }
    }

    fn compare(&mut self, before: Option<&Look>, look: &Look, now: Instant) {
        let watches = &self.agent.watches;
        watches.folders(&self.root.name, look.folders());
        let Some(before) = before else {
            // what changed before the first walk
            self.pending.touch(now);
            return;
        };
        watches.set_writing(&self.root.name, look.unsettled(before), now);
        if before != look {
            watches.changed(&self.root.name);
            self.pending.touch(now);
        }
    }

    fn next_ask(&self) -> Option<Instant> {
        let due = self.pending.due()?;
        Some(self.ask_at.map_or(due, |at| at.max(due)))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.pending.is_due(now) && self.ask_at.is_none_or(|at| at <= now)
    }

    /// Asks for a scan; while that is not possible it stays due.
    async fn ask(&mut self, now: Instant) {
        self.ask_at = None;
        if self.standing.is_draining() {
            self.ask_at = Some(now + ASK_AGAIN);
            return;
        }
        match submit(&self.agent, &self.root.name).await {
            Ok(asked @ (Asked::New | Asked::Waits)) => {
                self.pending.clear();
                if asked == Asked::New {
                    self.agent.watches.asked(&self.root.name);
                }
            }
            Ok(Asked::Runs) => self.ask_at = Some(now + ASK_AGAIN),
            Err(error) => {
                tracing::warn!(root = self.root.name, error = %chain(&error), "cannot ask for a scan; trying again");
                self.ask_at = Some(now + DATABASE_AGAIN);
            }
        }
    }

    /// Says that the root is gone, and waits until it can be listed again.
    async fn until_back(&mut self, reason: String) {
        tracing::warn!(root = self.root.name, reason, "a model root is gone; waiting for it");
        let text = format!("`{}` cannot be read: {reason}", self.root.path.display());
        self.agent.watches.set(&self.root.name, Way::Missing, Some(reason));
        while let Err(error) = std::fs::read_dir(&self.root.path) {
            // said each time: a scan that had read the root before may end now and call it ready
            let said = models::root_missing(&self.agent.pool, &self.agent.host, &self.root.name, &text).await;
            if let Err(error) = said {
                tracing::warn!(root = self.root.name, error = %chain(&error), "cannot say that it is gone; trying again");
            }
            tracing::debug!(root = self.root.name, %error, "still gone");
            tokio::time::sleep(CHECK).await;
        }
        self.pending.touch(Instant::now());
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        std::fs::metadata(&self.root.path).map(|meta| (meta.dev(), meta.ino()))
    }

    fn others(&self) -> Vec<PathBuf> {
        self.agent.roots.iter().map(|root| root.path.clone()).collect()
    }
}

/// What to do about a limit that the kernel names by a number only.
fn limit(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC) => "the limit of watched folders is reached (sysctl fs.inotify.max_user_watches)".to_owned(),
        Some(Errno::MFILE) => {
            "the limit of inotify queues is reached (sysctl fs.inotify.max_user_instances)".to_owned()
        }
        _ => format!("inotify: {error}"),
    }
}
