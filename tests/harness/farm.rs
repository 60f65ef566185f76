//! A whole farm of real processes: stores, API, scheduler, and as many agents as a story starts.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use private_stores::{Options, Redis};
use shared::{
    ready::Ready,
    wire::{HostView, ModelDetail},
};
use tempfile::TempDir;

use crate::{AgentSettings, Api, Clock, LONG, Ledger, Process, SHORT, Server, Settings, binary, process, wait_for};

/// A running program that has said that it serves.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
    /// Where it serves.
    pub ready: Ready,
}

impl Daemon {
    /// The value of a metric; the sum over its series when it has labels, or of those whose labels hold `labels`.
    ///
    /// # Panics
    /// When it does not answer or has no such series.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let answer = Api::new(&self.ready.ops).ask("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let ours = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        };
        let values: Vec<f64> = answer
            .text
            .lines()
            .filter(ours)
            .map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a metric has a value"))
            .collect();
        assert!(!values.is_empty(), "no series {name} {labels}");
        values.iter().sum()
    }

    /// Its readiness: the status and what it says.
    pub async fn readiness(&self) -> (u16, String) {
        let answer = Api::new(&self.ready.ops).ask("/readyz").await;
        (answer.status, answer.text)
    }

    /// Pids of its runners.
    pub fn runners(&self) -> Vec<u32> {
        process::children_named(self.process.pid(), "runner")
    }

    /// Waits for its only runner; the pid.
    pub async fn runner(&self) -> u32 {
        wait_for("a runner", SHORT, || async {
            match self.runners().as_slice() {
                [pid] => Ok(*pid),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// What the runner that runs now was started with.
    ///
    /// # Panics
    /// When it is gone.
    pub async fn runner_arguments(&self) -> Vec<String> {
        let pid = self.runner().await;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the runner runs");
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// SIGKILL to the runner that runs now.
    pub async fn kill_runner(&self) {
        let pid = self.runner().await;
        process::kill(pid);
    }
}

/// A farm. Drop it last: it holds the stores and the folder.
#[derive(Debug)]
pub struct Farm {
    /// Client of its API.
    pub api: Api,
    /// The API's process.
    pub api_daemon: Daemon,
    /// The scheduler's process.
    pub scheduler: Daemon,
    /// The execution ledger.
    pub ledger: Ledger,
    /// Its Redis.
    pub redis: Redis,
    /// Its Postgres, shared with other farms unless it asked for its own.
    pub server: Arc<Server>,
    settings: Settings,
    database_url: String,
    started: AtomicU32,
    folder: TempDir,
}

/// Builds a farm.
#[derive(Debug, Default)]
pub struct FarmBuilder {
    settings: Settings,
}

impl FarmBuilder {
    /// Changes settings.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Starts the stores, the API and the scheduler.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(self) -> Farm {
        let settings = self.settings;
        let server = if settings.own_postgres { Arc::new(Server::own().await) } else { Server::shared().await };
        let database_url = server.database().await;
        let folder = tempfile::Builder::new().prefix("modelyard-farm-").tempdir().expect("a temporary folder");
        let (redis_memory, redis_commands) = (settings.redis_memory, settings.redis_commands);
        let options = Options { redis_memory, redis_commands, ..Options::TEST };
        let redis = Redis::ensure(folder.path(), options).unwrap_or_else(|error| panic!("{error}"));
        let launcher = Launcher {
            folder: folder.path(),
            database_url: &database_url,
            redis_url: redis.url(),
            settings: &settings,
        };
        let scheduler = launcher.scheduler("scheduler");
        let api_daemon = launcher.api("api");
        let (scheduler, api_daemon) = (scheduler.ready().await, api_daemon.ready().await);
        Farm {
            api: Api::new(api_daemon.ready.listen.as_deref().expect("the API listens")),
            api_daemon,
            scheduler,
            ledger: Ledger::new(&database_url),
            redis,
            server,
            started: AtomicU32::new(0),
            settings,
            database_url,
            folder,
        }
    }
}

impl Farm {
    /// A farm to be built.
    pub fn builder() -> FarmBuilder {
        FarmBuilder::default()
    }

    /// A farm with the usual settings.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The folder of models that agents have as root `main`.
    pub fn library(&self) -> PathBuf {
        self.path("models")
    }

    /// A path in the farm's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// URL of the database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// What its processes were started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn launcher(&self) -> Launcher<'_> {
        Launcher {
            folder: self.folder.path(),
            database_url: &self.database_url,
            redis_url: self.redis.url(),
            settings: &self.settings,
        }
    }

    fn fresh(&self, role: &str) -> String {
        format!("{role}-{}", self.started.fetch_add(1, Ordering::Relaxed))
    }

    /// Settings of an agent with the farm's library.
    pub fn agent(&self, host: &str) -> AgentSettings {
        let library = self.library();
        std::fs::create_dir_all(&library).expect("the library folder can be made");
        AgentSettings::new(host, library, self.calm_machine())
    }

    /// A machine of 16 GiB that is short of nothing, as `/proc` would describe it.
    fn calm_machine(&self) -> PathBuf {
        let root = self.path("machine");
        if root.exists() {
            return root;
        }
        let text = "MemTotal: 16777216 kB\nMemAvailable: 12582912 kB\n";
        let written =
            std::fs::create_dir_all(root.join("proc")).and_then(|()| std::fs::write(root.join("proc/meminfo"), text));
        written.expect("the machine of the story can be written");
        root
    }

    /// Starts an agent and waits until it serves.
    pub async fn start_agent(&self, settings: AgentSettings) -> Daemon {
        self.spawn_agent(&settings).ready().await
    }

    /// Starts an agent with the usual settings, and waits until its first scan is over.
    pub async fn agent_with_library(&self, settings: AgentSettings) -> Daemon {
        let host = settings.host.clone();
        let agent = self.start_agent(settings).await;
        self.scanned(&host).await;
        agent
    }

    /// Starts an agent without waiting.
    pub fn spawn_agent(&self, settings: &AgentSettings) -> Starting {
        self.launcher().agent(&self.fresh(&settings.host), settings)
    }

    /// Starts a second scheduler.
    pub async fn another_scheduler(&self) -> Daemon {
        self.launcher().scheduler(&self.fresh("scheduler")).ready().await
    }

    /// Starts a scheduler with other settings.
    pub async fn scheduler_with(&self, settings: &Settings) -> Daemon {
        let launcher = Launcher { settings, ..self.launcher() };
        launcher.scheduler(&self.fresh("scheduler")).ready().await
    }

    /// Starts a second API.
    pub async fn another_api(&self) -> (Daemon, Api) {
        let daemon = self.launcher().api(&self.fresh("api")).ready().await;
        let api = Api::new(daemon.ready.listen.as_deref().expect("the API listens"));
        (daemon, api)
    }

    /// Starts the API anew after it was killed.
    pub async fn restart_api(&mut self) {
        let (daemon, api) = self.another_api().await;
        self.api_daemon = daemon;
        self.api = api;
    }

    /// Waits until every root of a host has been scanned since its agent registered.
    pub async fn scanned(&self, host: &str) {
        wait_for(&format!("the roots of {host} to be scanned"), SHORT, || async {
            let view: HostView = self.api.get(&format!("/v1/hosts/{host}")).await;
            let fresh = view.roots.iter().all(|root| root.scanned_at.is_some_and(|at| at >= view.registered_at));
            if fresh && view.state == "ready" { Ok(()) } else { Err(format!("{view:?}")) }
        })
        .await;
    }

    /// A model by its name.
    pub async fn model(&self, name: &str) -> ModelDetail {
        self.api.get(&format!("/v1/models/{name}")).await
    }

    /// Asserts that the ledger holds no job that breaks a rule.
    ///
    /// # Panics
    /// When one does.
    pub async fn assert_ledger_is_clean(&self) {
        let violations = self.ledger.violations().await;
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// A program that has been started.
#[derive(Debug)]
pub struct Starting {
    name: String,
    process: Process,
    ready_file: PathBuf,
}

impl Starting {
    /// Waits until it says that it serves.
    ///
    /// # Panics
    /// When it ends before, or does not in time.
    pub async fn ready(mut self) -> Daemon {
        let until = std::time::Instant::now() + LONG;
        loop {
            if let Some(ready) = Ready::read(&self.ready_file).expect("a ready file can be read") {
                return Daemon { process: self.process, ready };
            }
            if let Some(status) = self.process.exited() {
                panic!("{} ended before it was ready: {status}\n{}", self.name, self.process.log());
            }
            assert!(std::time::Instant::now() < until, "{} is not ready after {LONG:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it ends without ever serving: exit code and log.
    pub async fn refused(mut self, patience: Duration) -> (Option<i32>, String) {
        let status = self.process.ended(patience).await;
        (status.code(), self.process.log())
    }
}

struct Launcher<'a> {
    folder: &'a Path,
    database_url: &'a str,
    redis_url: &'a str,
    settings: &'a Settings,
}

impl Launcher<'_> {
    fn api(&self, name: &str) -> Starting {
        let mut arguments = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
        arguments.extend(self.settings.api_arguments.clone());
        self.launch(name, "modelyard-api", arguments, self.database_url, &self.settings.clock, (&[], None))
    }

    fn scheduler(&self, name: &str) -> Starting {
        let mut arguments = Vec::new();
        let mut seconds =
            |name: &str, value: Duration| arguments.extend([name.to_owned(), format!("{}ms", value.as_millis())]);
        seconds("--tick", self.settings.tick);
        seconds("--scan-every", self.settings.scan_every);
        seconds("--lost-after", self.settings.lost_after);
        seconds("--leader-ttl", self.settings.lease_ttl);
        seconds("--lease-ttl", self.settings.lease_ttl);
        arguments.extend(self.settings.scheduler_arguments.clone());
        self.launch(name, "modelyard-scheduler", arguments, self.database_url, &self.settings.clock, (&[], None))
    }

    fn agent(&self, name: &str, settings: &AgentSettings) -> Starting {
        let mut arguments = settings.arguments();
        arguments.extend(["--lease-ttl".to_owned(), format!("{}ms", self.settings.lease_ttl.as_millis())]);
        let database_url = settings.database_url.as_deref().unwrap_or(self.database_url);
        let around = (settings.environment.as_slice(), settings.limits.as_deref());
        self.launch(name, "gpu-worker", arguments, database_url, &settings.clock, around)
    }

    fn launch(
        &self,
        name: &str,
        program: &str,
        mut arguments: Vec<String>,
        database_url: &str,
        clock: &Clock,
        (more, limits): (&[(String, String)], Option<&str>),
    ) -> Starting {
        let ready_file = self.folder.join(format!("{name}.ready.json"));
        arguments.extend(["--ready-file".to_owned(), ready_file.display().to_string()]);
        let mut environment = vec![
            ("DATABASE_URL", database_url.to_owned()),
            ("REDIS_URL", self.redis_url.to_owned()),
            ("MODELYARD_DATABASE_CONNECTIONS", "5".to_owned()),
            ("MODELYARD_LOG_FORMAT", "text".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ];
        environment.extend(more.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let log = self.folder.join(format!("{name}.log"));
        let process = match limits {
            None => Process::start(name, &binary(program), &arguments, &environment, clock, &log),
            Some(limits) => {
                let all = limited(limits, &binary(program), &arguments);
                let process = Process::start(name, Path::new("unshare"), &all, &environment, clock, &log);
                map_users(process.pid());
                process
            }
        };
        Starting { name: name.to_owned(), process, ready_file }
    }
}

/// A program in a user namespace of its own, after this line of a shell: it waits until [`map_users`] has made it root there.
fn limited(limits: &str, program: &Path, arguments: &[String]) -> Vec<String> {
    let inner = format!("{limits} && exec setpriv --pdeathsig KILL \"$0\" \"$@\"");
    let outer = format!("until [ \"$(id -u)\" = 0 ]; do sleep 0.02; done; exec sh -c '{inner}' \"$0\" \"$@\"");
    let mut all = ["-U", "sh", "-c", &outer].map(str::to_owned).to_vec();
    all.push(program.display().to_string());
    all.extend(arguments.iter().cloned());
    all
}

/// Every user and group of this namespace is the same one in that of the process, which has to be another.
fn map_users(pid: u32) {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let until = std::time::Instant::now() + SHORT;
    while namespace(&pid.to_string()) == namespace("self") {
        assert!(std::time::Instant::now() < until, "{pid} made no user namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), "0 0 65536").expect("root maps users");
    }
}
