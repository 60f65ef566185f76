//! How a farm's processes are started: short timings, so that expiry is a matter of seconds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::Clock;

/// Settings that all processes of a farm share.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Lease time to live.
    pub lease_ttl: Duration,
    /// The scheduler's tick.
    pub tick: Duration,
    /// Period of the scan schedule; none by default, so that tests see only their own jobs.
    pub scan_every: Duration,
    /// After which a job pinned to a dead host fails.
    pub lost_after: Duration,
    /// A Postgres of this farm's own, for tests that kill or pause it.
    pub own_postgres: bool,
    /// Redis's limit of memory, and what it does there.
    pub redis_memory: (&'static str, &'static str),
    /// Commands of Redis that the farm's own user may give beside those that the product needs.
    pub redis_commands: &'static str,
    /// More arguments for the API.
    pub api_arguments: Vec<String>,
    /// More arguments for the scheduler.
    pub scheduler_arguments: Vec<String>,
    /// The clock that API and scheduler see.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(2),
            tick: Duration::from_millis(50),
            scan_every: Duration::ZERO,
            lost_after: Duration::from_secs(120),
            own_postgres: false,
            redis_memory: private_stores::Options::TEST.redis_memory,
            redis_commands: private_stores::Options::TEST.redis_commands,
            api_arguments: Vec::new(),
            scheduler_arguments: Vec::new(),
            clock: Clock::True,
        }
    }
}

/// Settings of one agent.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Host name.
    pub host: String,
    /// Roots, `(name, folder)`.
    pub roots: Vec<(String, PathBuf)>,
    /// RAM tier.
    pub ram_budget: String,
    /// Memory of `cpu:0`.
    pub cpu_memory: String,
    /// Disk reads per second.
    pub read_limit: Option<String>,
    /// Reads for hashing per second; `0`: scans are not followed by hashing, so that stories see only their own jobs.
    pub hash_limit: String,
    /// How the roots are watched; `off`, so that stories see only their own jobs.
    pub watch: String,
    /// What the agent takes for the machine: folders `proc` and `sys` below it say how much memory there is. A calm machine,
    /// so that stories do not depend on what else runs on this one.
    pub system_root: PathBuf,
    /// More arguments, as they are.
    pub more: Vec<String>,
    /// Grace of a drain.
    pub drain_grace: Duration,
    /// Labels.
    pub labels: Vec<String>,
    /// Another database URL, e.g. a proxy's.
    pub database_url: Option<String>,
    /// The socket that programs attach over.
    pub attach_socket: Option<PathBuf>,
    /// The clock that it sees.
    pub clock: Clock,
    /// More variables of its environment.
    pub environment: Vec<(String, String)>,
    /// A line of a shell that the agent is started after, both in a user namespace of their own: limits that the kernel keeps for
    /// each of these hold for this agent alone.
    pub limits: Option<String>,
}

impl AgentSettings {
    /// The usual agent of a host with this root.
    pub(crate) fn new(host: &str, library: PathBuf, system_root: PathBuf) -> Self {
        Self {
            host: host.to_owned(),
            roots: vec![("main".to_owned(), library)],
            ram_budget: "512MiB".to_owned(),
            cpu_memory: "512MiB".to_owned(),
            read_limit: None,
            hash_limit: "0".to_owned(),
            watch: "off".to_owned(),
            system_root,
            more: Vec::new(),
            drain_grace: Duration::from_secs(30),
            labels: Vec::new(),
            database_url: None,
            attach_socket: None,
            environment: Vec::new(),
            limits: None,
            clock: Clock::True,
        }
    }

    /// With this root, `main`, instead of the farm's library.
    #[must_use]
    pub fn library(mut self, folder: impl Into<PathBuf>) -> Self {
        self.roots = vec![("main".to_owned(), folder.into())];
        self
    }

    /// With one more root.
    #[must_use]
    pub fn root(mut self, name: &str, folder: impl Into<PathBuf>) -> Self {
        self.roots.push((name.to_owned(), folder.into()));
        self
    }

    /// With this much memory of `cpu:0`.
    #[must_use]
    pub fn cpu_memory(mut self, size: &str) -> Self {
        self.cpu_memory = size.to_owned();
        self
    }

    /// With this RAM budget.
    #[must_use]
    pub fn ram_budget(mut self, size: &str) -> Self {
        self.ram_budget = size.to_owned();
        self
    }

    /// Reading at most this much per second, so that loads last.
    #[must_use]
    pub fn read_limit(mut self, size: &str) -> Self {
        self.read_limit = Some(size.to_owned());
        self
    }

    /// Hashing after scans, at most this much per second.
    #[must_use]
    pub fn hash_limit(mut self, size: &str) -> Self {
        self.hash_limit = size.to_owned();
        self
    }

    /// Watching its roots this way, with short times.
    #[must_use]
    pub fn watch(mut self, way: &str) -> Self {
        self.watch = way.to_owned();
        self
    }

    /// On the machine that these folders describe.
    #[must_use]
    pub fn system_root(mut self, folder: &Path) -> Self {
        self.system_root = folder.to_owned();
        self
    }

    /// With an option that has no setting of its own here.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.more.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// With this variable in its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this grace for running jobs when it is told to stop.
    #[must_use]
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = grace;
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.labels.push(label.to_owned());
        self
    }

    /// Reaching Postgres at this URL.
    #[must_use]
    pub fn database_url(mut self, url: String) -> Self {
        self.database_url = Some(url);
        self
    }

    /// Serving programs over this socket.
    #[must_use]
    pub fn attach_socket(mut self, path: &Path) -> Self {
        self.attach_socket = Some(path.to_owned());
        self
    }

    /// Seeing this clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = vec!["agent".into(), "--host".into(), self.host.clone()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        for (name, folder) in &self.roots {
            option("--root", format!("{name}={}", folder.display()));
        }
        option("--device", "cpu:0".into());
        option("--ram-budget", self.ram_budget.clone());
        option("--cpu-memory", self.cpu_memory.clone());
        option("--hash-limit", self.hash_limit.clone());
        option("--drain-grace", format!("{}ms", self.drain_grace.as_millis()));
        option("--watch", self.watch.clone());
        option("--system-root", self.system_root.display().to_string());
        option("--watch-quiet", "300ms".into());
        option("--watch-poll", "500ms".into());
        if let Some(limit) = &self.read_limit {
            option("--read-limit", limit.clone());
        }
        if let Some(path) = &self.attach_socket {
            option("--attach-socket", path.display().to_string());
        }
        for label in &self.labels {
            option("--label", label.clone());
        }
        arguments.extend(self.more.clone());
        arguments
    }
}
