//! The agent's life: open the stores, start the runners, register, serve, drain, go.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::{CudaReport, nvml::MonitorOptions};
use residency::{KeepAlive, RamTier, TierConfig, policy::Rules};
use shared::db::Pool;
use shared::{
    db::{self, DbError, farm, listen},
    error::chain,
    ids::Incarnation,
    job::{self, JobSpec, NewJob, ScanArgs, Target},
    ops::{self, Check, Ops},
    ready::Ready,
    shutdown::Tasks,
    status::LiveStatus,
};

use crate::{
    attach,
    config::{AgentConfig, HashLimit, Root},
    consumer,
    context::Agent,
    devices, keeper, lease,
    lease::Standing,
    memory,
    metrics::Metrics,
    pressure::{self, sample::Sampler},
    publisher, rescan,
    runner::{DYING, HURRIED_GRACE},
    running::{Running, StopReason},
    throttle::Throttle,
    vitals, watch,
};

/// After a hand-back, how long reports may take to reach the database.
const HAND_BACK_GRACE: Duration = Duration::from_secs(10);
/// How long the other tasks may take to end.
const TASK_GRACE: Duration = Duration::from_secs(5);

// a run that does not stop is killed and gone before anybody waits for it in vain
const _: () = assert!(HURRIED_GRACE.as_millis() + DYING.as_millis() < HAND_BACK_GRACE.as_millis());
const _: () = assert!(HURRIED_GRACE.as_millis() < TASK_GRACE.as_millis());

/// Why the agent could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// An option cannot be used.
    #[error("{0}")]
    Config(String),
    /// Postgres cannot be used.
    #[error("Postgres ({address}) cannot be used")]
    Store {
        /// Where, without the password.
        address: String,
        /// Why.
        #[source]
        source: DbError,
    },
    /// The system refused something.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// Metrics could not be registered.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// This agent must not go on.
    #[error("this agent must end: {0}")]
    Evicted(String),
}

impl AgentError {
    /// The process's exit code: 2 for a bad configuration, 7 for a store, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Store { source: DbError::BadUrl(_), .. } => 2,
            Self::Store { .. } => 7,
            Self::System { .. } | Self::Metrics(_) | Self::Evicted(_) => 1,
        }
    }
}

/// Runs until `shutdown` resolves, then drains.
///
/// # Errors
/// [`AgentError`].
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    let host = config.host_name().map_err(AgentError::Config)?;
    let tasks = Tasks::new();
    let pool = open(&config).await?;
    let live = LiveStatus::connect(config.stores.redis_url.as_deref())
        .map_err(|error| AgentError::Config(format!("--redis-url: {}", chain(&error))))?;
    let (agent, cuda, registry) = assemble(&config, host, pool, live, &tasks)?;
    let registered = Instant::now();
    register(&config, &agent, &cuda).await?;
    let standing = Standing::new(registered, config.lease);
    serve(&config, &agent, &standing, registry).await?;
    tracing::info!(host = agent.host, incarnation = %agent.me, devices = ?agent.devices.keys(), "agent is ready");
    let mut evicted = standing.evicted.subscribe();
    let why = tokio::select! {
        () = shutdown => None,
        why = async { evicted.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) } => why,
    };
    match why {
        None => drain(&config, &agent, &standing).await,
        Some(_) => {
            agent.running.stop_all(StopReason::Lost);
            // nothing that ends now is reported: it belongs to whoever took over
            let _ = tokio::time::timeout(TASK_GRACE, agent.running.idle()).await;
        }
    }
    for device in agent.devices.values() {
        device.runner.stop(TASK_GRACE).await;
    }
    if !tasks.stop_and_wait(TASK_GRACE).await {
        tracing::warn!("some tasks did not end in time");
    }
    why.map_or(Ok(()), |why| Err(AgentError::Evicted(why)))
}

async fn open(config: &AgentConfig) -> Result<Pool, AgentError> {
    let address = shared::config::without_password(&config.stores.database_url);
    let store = |source| AgentError::Store { address: address.clone(), source };
    let pool = db::pool(&config.stores, "modelyard-agent").map_err(store)?;
    db::wait_until_usable(&pool, config.store_wait).await.map_err(store)?;
    Ok(pool)
}

fn assemble(
    config: &AgentConfig,
    host: String,
    pool: Pool,
    live: LiveStatus,
    tasks: &Tasks,
) -> Result<(Arc<Agent>, CudaReport, prometheus::Registry), AgentError> {
    let system = |what| move |source| AgentError::System { what, source };
    let available = memory::available_bytes().map_err(system("cannot read the available memory"))?;
    let cuda = engine::probe();
    let names: Vec<String> = cuda.devices.iter().map(|device| device.name.clone()).collect();
    let chosen = devices::choose(config, &names).map_err(AgentError::Config)?;
    let program = std::env::current_exe().map_err(system("cannot find this program's own file"))?;
    let registry = ops::registry("gpu-worker")?;
    let device_names: Vec<&str> = chosen.iter().map(|device| device.name.as_str()).collect();
    let metrics = Metrics::register(&registry, &device_names)?;
    let vitals = vitals::Vitals::start(nvml_options(config, &chosen))
        .map_err(system("cannot start the threads that watch devices"))?;
    let tier = RamTier::new(TierConfig {
        budget_bytes: config.ram_budget.map_or(available / 5 * 2, |size| size.0),
        policy: config.ram_policy,
        min_age: config.ram_min_age,
        keep_alive: config.ram_keep_alive.map(KeepAlive::For),
        io_timeout: config.io_timeout,
        ..TierConfig::new(0)
    });
    let rules = Rules { policy: config.vram_policy, ..tier.rules() };
    let agent = Arc::new(Agent {
        devices: devices::start(&host, &chosen, &program, config, (rules, &vitals.views()), tasks),
        host,
        me: Incarnation::generate(),
        teller: db::tell::Teller::start(pool.clone(), tasks),
        pool,
        live,
        tier,
        roots: config.roots.clone(),
        watches: watch::Watches::new(config.roots.iter().map(|root| root.name.clone()), &registry)?,
        rescans: Default::default(),
        handed_back: Default::default(),
        stored: Default::default(),
        scan_threads: usize::from(config.scan_threads),
        throttle: config.read_limit.map(|limit| Arc::new(Throttle::new(limit.0))),
        hash_throttle: config.hash_limit.rate().map(|limit| Arc::new(Throttle::new(limit.0))),
        artifact_limit: config.artifact_limit,
        hashes_after_scan: config.hash_limit != HashLimit::Off,
        aliases: Default::default(),
        loras: Default::default(),
        variant_budget: config.variant_budget,
        running: Running::default(),
        metrics,
        pressure: Default::default(),
        vitals,
        unaccounted: Default::default(),
        changed: tokio::sync::Notify::new(),
        tasks: tasks.clone(),
    });
    Ok((agent, cuda, registry))
}

/// Watched for the devices of its vendor, and where somebody names a library.
fn nvml_options(config: &AgentConfig, chosen: &[devices::Chosen]) -> Option<MonitorOptions> {
    let wanted = config.nvml_library.is_some() || chosen.iter().any(|device| device.name.starts_with("cuda:"));
    wanted.then(|| MonitorOptions { library: config.nvml_library.clone(), ..MonitorOptions::default() })
}

/// Registers host, devices and roots, and asks for a first scan, in one transaction.
async fn register(config: &AgentConfig, agent: &Agent, cuda: &CudaReport) -> Result<(), AgentError> {
    // runners have spoken, or had their time, once their rows are there
    let devices = devices::rows(&agent.host, &agent.devices, &config.labels).await;
    let unknown = "no runner has said whether it can run models";
    let onnxruntime = devices::onnxruntime(&agent.devices).map_or_else(
        // neither yes nor no: a host whose runners are slow to come up still gets work that runs models
        || serde_json::json!({ "available": null, "reason": unknown }),
        |known| serde_json::json!(known),
    );
    let budget = agent.tier.snapshot().ledger.budget_bytes;
    let registration = farm::Registration {
        host: agent.host.clone(),
        incarnation: agent.me,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: config.labels.clone(),
        slots: i32::from(config.slots),
        ram_budget_bytes: i64::try_from(budget).unwrap_or(i64::MAX),
        capabilities: serde_json::json!({ "onnxruntime": onnxruntime, "cuda": cuda }),
        devices,
        roots: agent.roots.iter().map(root_row).collect(),
    };
    let stored = async {
        let mut tx = agent.pool.begin().await?;
        farm::register(&mut tx, &registration, config.lease.ttl).await?;
        if !agent.roots.is_empty() {
            let scan = NewJob::new(JobSpec::Scan(ScanArgs::default()), Target::Host(agent.host.clone()));
            job::enqueue(&mut tx, scan).await?;
        }
        tx.commit().await?;
        Ok::<_, DbError>(())
    };
    let address = shared::config::without_password(&config.stores.database_url);
    stored.await.map_err(|source| AgentError::Store { address, source })
}

fn root_row(root: &Root) -> (String, String, Option<String>) {
    let reason = match std::fs::read_dir(&root.path) {
        Ok(_) => None,
        Err(error) => Some(format!("`{}` cannot be read: {error}", root.path.display())),
    };
    if let Some(reason) = &reason {
        tracing::warn!(root = root.name, reason, "a model root is missing");
    }
    (root.name.clone(), root.path.display().to_string(), reason)
}

async fn serve(
    config: &AgentConfig,
    agent: &Arc<Agent>,
    standing: &Standing,
    registry: prometheus::Registry,
) -> Result<(), AgentError> {
    let tasks = &agent.tasks;
    let token = tasks.token().clone();
    let until_stop = |name: &'static str, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let token = token.clone();
        tasks.spawn(name, async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = work => {}
            }
        });
    };
    let hints = listen::Hints::start(&config.stores, &[listen::PLACED, listen::CANCEL], tasks);
    let beats = lease::heartbeats(agent.clone(), config.stores.clone(), config.lease, standing.clone());
    until_stop("heartbeats", Box::pin(beats));
    until_stop("self-fence", Box::pin(lease::self_fence(agent.clone(), standing.clone())));
    until_stop("cancels", Box::pin(cancels(agent.running.clone(), hints.clone())));
    until_stop("publisher", Box::pin(publisher::publish(agent.clone(), standing.clone())));
    until_stop("keeper", Box::pin(keeper::expire(agent.clone())));
    until_stop("rescans", Box::pin(rescan::ask(agent.clone(), standing.clone())));
    let (sampler, headroom) = memory_watch(config)?;
    until_stop("memory watch", Box::pin(pressure::watch(agent.clone(), sampler, headroom)));
    until_stop("vitals", Box::pin(vitals::watch(agent.clone())));
    for device in agent.devices.values().cloned() {
        until_stop("device keeper", Box::pin(keeper::expire_on(agent.clone(), device.clone())));
        until_stop("device watch", Box::pin(watch_device(agent.clone(), device)));
    }
    if let Some(path) = &config.attach_socket {
        let system = |source| AgentError::System { what: "cannot bind --attach-socket", source };
        let socket = attach::Socket::bind(path).await.map_err(system)?;
        let admission = attach::Admission { users: config.attach_users.clone() };
        until_stop("attach", Box::pin(socket.serve(agent.clone(), admission)));
    }
    let watched = watch::Options { mode: config.watch, quiet: config.watch_quiet, poll: config.watch_poll };
    watch::start(agent, standing, watched);
    consumer::start(agent, standing, &hints, usize::from(config.slots));
    let checks = vec![database_check(agent.pool.clone()), lease_check(standing.clone())];
    let bound = ops::serve(Ops { registry, checks }, config.ops_listen, tasks)
        .await
        .map_err(|source| AgentError::System { what: "cannot bind --ops-listen", source })?;
    if let Some(path) = &config.ready_file {
        let written = Ready::this_process(None, bound).write(path);
        written.map_err(|source| AgentError::System { what: "cannot write --ready-file", source })?;
    }
    Ok(())
}

/// What reads the system's memory, and the headroom: a system that cannot be read is refused at the start.
fn memory_watch(config: &AgentConfig) -> Result<(Sampler, u64), AgentError> {
    let sampler = Sampler::new(&config.system_root);
    let sample = sampler.sample().map_err(|error| {
        AgentError::Config(format!("--system-root {}: {}", config.system_root.display(), chain(&error)))
    })?;
    Ok((sampler, pressure::headroom(config.memory_headroom.map(|size| size.0), &sample)))
}

fn database_check(pool: Pool) -> (&'static str, Check) {
    let check: Check = Arc::new(move || {
        let pool = pool.clone();
        Box::pin(async move { db::probe(&pool).await.map_err(|error| chain(&error)) })
    });
    ("database", check)
}

fn lease_check(standing: Standing) -> (&'static str, Check) {
    let check: Check = Arc::new(move || {
        let good = standing.is_good();
        Box::pin(async move { if good { Ok(()) } else { Err("the lease could not be renewed".to_owned()) } })
    });
    ("lease", check)
}

/// Hints of cancels; the heartbeat's answer catches what is missed here.
async fn cancels(running: Running, hints: listen::Hints) {
    let mut hints = hints.subscribe();
    loop {
        match hints.recv().await {
            Ok(hint) if hint.channel == listen::CANCEL => {
                if let Ok(id) = hint.payload.parse() {
                    running.stop(id, StopReason::Cancelled);
                }
            }
            Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Wakes the publisher when a runner's status or what is noted about its components changes, and counts deaths.
async fn watch_device(agent: Arc<Agent>, device: crate::context::Device) {
    let (mut status, mut notes) = (device.runner.status(), device.tier.changes());
    let mut restarts = 0;
    loop {
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            // the tier lives as long as the device here: this never errs
            _ = notes.changed() => {}
        }
        let now = status.borrow_and_update().restarts_total;
        device.tier.prune(|| device.resident());
        device.variants.prune(|| device.resident());
        if now > restarts {
            agent.metrics.runner_exits.with_label_values(&[&device.name]).inc_by(now - restarts);
            restarts = now;
        }
        agent.changed.notify_one();
    }
}

/// Takes no new work, lets what runs finish within the grace, hands the rest back, gives the lease up (G12).
async fn drain(config: &AgentConfig, agent: &Agent, standing: &Standing) {
    tracing::info!(
        grace_seconds = config.drain_grace.as_secs_f64(),
        running = agent.running.leases().len(),
        "draining"
    );
    standing.draining.send_replace(true);
    standing.admission.send_replace(false);
    let told = async {
        let mut tx = agent.pool.begin().await?;
        farm::set_draining(&mut tx, &agent.host, farm::Drain::Leaving(agent.me)).await?;
        Ok::<_, DbError>(tx.commit().await?)
    };
    if let Err(error) = told.await {
        tracing::warn!(error = %chain(&error), "the database was not told of the drain; placed jobs go back when the lease ends");
    }
    if tokio::time::timeout(config.drain_grace, agent.running.idle()).await.is_err() {
        let left = agent.running.stop_all(StopReason::HandBack);
        tracing::warn!(left, "the grace is over; handing jobs back");
        if tokio::time::timeout(HAND_BACK_GRACE, agent.running.idle()).await.is_err() {
            // as long as something runs, nobody else may start it: the lease has to run out by itself
            tracing::error!(left = agent.running.leases().len(), "jobs did not stop; the lease is left to expire");
            return;
        }
    }
    let released = async {
        lease::hand_back_rest(agent, config.lease).await?;
        farm::release_lease(&agent.pool, agent.me).await
    };
    if let Err(error) = released.await {
        tracing::warn!(error = %chain(&error), "the lease was not given up; it will expire");
    }
    if let Err(error) = agent.live.withdraw(&agent.host).await {
        tracing::debug!(error = %chain(&error), "the snapshot was not withdrawn; it will expire");
    }
}
