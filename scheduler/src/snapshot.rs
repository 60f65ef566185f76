//! Reads the farm into the placement's plain values. Hosts and devices once per pass; residency and disk locations only
//! of what the jobs at hand touch. The reads need no common transaction: every placement is compared and set.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use shared::{
    db::{
        DbError, Session, farm,
        jobs::{self, PendingRow},
        models, residency,
    },
    ids::{ComponentId, ModelId},
    job::{JobKind, JobSpec, WriteForm, engine::EngineArgs, enqueue::Needs},
};

use crate::{
    drains::Drains,
    placement::{Device, Host, PendingJob, Queue, Snapshot, Tier},
};

/// Hosts, devices, queues and totals; no component yet.
///
/// # Errors
/// Database errors.
pub(crate) async fn load(db: &mut Session, drains: &mut Drains) -> Result<Snapshot, DbError> {
    let mut snapshot = Snapshot::default();
    for row in farm::list_hosts(&mut *db).await? {
        let host = Host {
            alive: row.alive,
            draining: row.draining,
            runs_no_models: no_runtime(&row.capabilities),
            labels: row.labels.into_iter().collect(),
            queue: Queue { slots: unsigned(row.slots), ..Queue::default() },
            ram: Tier { capacity_bytes: bytes(row.ram_budget_bytes), ..Tier::default() },
            ..Host::default()
        };
        snapshot.hosts.insert(row.name, host);
    }
    for row in farm::list_roots(&mut *db).await? {
        // a missing root too: a scan is how its return is found out, and says so when it is still away
        if let Some(host) = snapshot.hosts.get_mut(&row.host) {
            host.roots.insert(row.name);
        }
    }
    for row in farm::list_devices(&mut *db).await? {
        let not_ready = (row.state != "ready").then(|| row.reason.unwrap_or(row.state));
        let memory = Tier {
            capacity_bytes: bytes(row.memory_total_bytes),
            used_bytes: bytes(row.memory_used_bytes),
            ..Tier::default()
        };
        let queue = Queue { slots: unsigned(row.slots), ..Queue::default() };
        let device = Device { host: row.host, not_ready, labels: row.labels.into_iter().collect(), queue, memory };
        snapshot.devices.insert(row.id, device);
    }
    add_totals(db, &mut snapshot).await?;
    add_queues(db, &mut snapshot, drains).await?;
    Ok(snapshot)
}

/// Why a host cannot run models, in its agent's words; an agent that does not know yet is given work.
fn no_runtime(capabilities: &serde_json::Value) -> Option<String> {
    let library = &capabilities["onnxruntime"];
    (library["available"] == false).then(|| library["reason"].as_str().unwrap_or("no reason is known").to_owned())
}

async fn add_totals(db: &mut Session, snapshot: &mut Snapshot) -> Result<(), DbError> {
    for row in residency::totals(db).await? {
        if let Some(tier) = tier_mut(snapshot, &row.host, &row.device) {
            tier.used_bytes = tier.used_bytes.max(bytes(row.bytes));
            tier.held_bytes = bytes(row.held_bytes);
        }
    }
    Ok(())
}

async fn add_queues(db: &mut Session, snapshot: &mut Snapshot, drains: &mut Drains) -> Result<(), DbError> {
    let mut counts: HashMap<String, u32> = HashMap::new();
    for (host, device, count) in jobs::load_by_place(db).await? {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        *counts.entry(device.unwrap_or(host)).or_default() += count;
    }
    let now = Instant::now();
    let queues = snapshot
        .hosts
        .iter_mut()
        .map(|(name, host)| (name, &mut host.queue))
        .chain(snapshot.devices.iter_mut().map(|(id, device)| (id, &mut device.queue)));
    for (place, queue) in queues {
        queue.jobs = counts.get(place).copied().unwrap_or(0);
        queue.ahead = drains.observe(place, queue.jobs, now);
    }
    drains.forget_gone(now);
    Ok(())
}

/// What each pending row asks for; an error for rows of a kind or shape that this build cannot read.
pub(crate) fn pending_job(row: &PendingRow) -> Result<PendingJob, String> {
    let kind: JobKind = row.kind.parse()?;
    let spec =
        JobSpec::decode(&row.kind, JobSpec::ARGS_VERSION, &row.args).map_err(|error| shared::error::chain(&error))?;
    let needs: Needs = serde_json::from_value(row.needs.clone()).map_err(|error| error.to_string())?;
    let lane = spec.lane();
    let other_models = spec.other_models();
    let through_ram = matches!(&spec, JobSpec::Load(args) if !args.protect);
    let copies = matches!(&spec, JobSpec::MetadataWrite(args) if args.form == WriteForm::Copy);
    let root = match spec {
        JobSpec::Scan(args) => args.root,
        JobSpec::Hash(args) => args.root,
        JobSpec::Convert(args) => args.output.root,
        spec => spec.engine().and_then(|args| root_of(&args)),
    };
    Ok(PendingJob {
        id: row.id,
        kind,
        lane,
        pin_host: row.pin_host.clone(),
        pin_device: row.pin_device.clone(),
        need_labels: row.need_labels.clone(),
        model: row.model_id,
        components: needs.components,
        through_ram,
        copies,
        other_models,
        root,
        lost_for: row.lost_seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        crashed_on: row.crashed_on.clone(),
    })
}

/// The root of a file that the engine's work needs or makes.
fn root_of(args: &EngineArgs) -> Option<String> {
    if let EngineArgs::BlendLoras(args) = args {
        return args.output.root.clone();
    }
    args.input().and_then(|(_, input)| input.root().map(str::to_owned))
}

/// Adds what the placement must know of these jobs' components and models.
///
/// # Errors
/// Database errors.
pub(crate) async fn add_details(
    db: &mut Session,
    snapshot: &mut Snapshot,
    wanted: &[PendingJob],
) -> Result<(), DbError> {
    let components: HashSet<ComponentId> =
        wanted.iter().flat_map(|job| job.components.iter().map(|(id, _)| *id)).collect();
    if !components.is_empty() {
        let components: Vec<ComponentId> = components.into_iter().collect();
        for row in residency::of_components(&mut *db, &components).await? {
            // what is on its way counts as there: a second job for it should join; what is leaving does not
            if let Some(tier) = tier_mut(snapshot, &row.host, &row.device)
                && matches!(row.state.as_str(), "ready" | "loading")
            {
                tier.enter(row.component_id, bytes(row.bytes), row.state == "ready");
            }
        }
        add_promises(db, snapshot).await?;
    }
    let models: HashSet<ModelId> =
        wanted.iter().flat_map(|job| job.model.iter().chain(&job.other_models).copied()).collect();
    if !models.is_empty() {
        let models: Vec<ModelId> = models.into_iter().collect();
        for (model, host) in models::hosts_with(&mut *db, &models).await? {
            snapshot.locations.entry(model).or_default().insert(host);
        }
        for (model, host) in models::hosts_behind(&mut *db, &models).await? {
            snapshot.behind.entry(model).or_default().insert(host);
        }
        if models::any_corrupt_files(&mut *db, None).await? {
            for file in models::corrupt_files(&mut *db, &models).await? {
                let text = file.to_string();
                snapshot.corrupt.entry(file.model_id).or_default().entry(file.host).or_insert(text);
            }
        }
    }
    Ok(())
}

/// Memory that placed and running jobs will take counts as taken before their workers report it.
async fn add_promises(db: &mut Session, snapshot: &mut Snapshot) -> Result<(), DbError> {
    for (host, device, needs) in jobs::active_needs(db).await? {
        let Ok(needs) = serde_json::from_value::<Needs>(needs) else { continue };
        let device = device.unwrap_or_default();
        if let Some(tier) = tier_mut(snapshot, &host, &device) {
            tier.promise(&needs.components);
        }
    }
    Ok(())
}

fn tier_mut<'a>(snapshot: &'a mut Snapshot, host: &str, device: &str) -> Option<&'a mut Tier> {
    if device.is_empty() {
        snapshot.hosts.get_mut(host).map(|host| &mut host.ram)
    } else {
        snapshot.devices.get_mut(device).map(|device| &mut device.memory)
    }
}

fn bytes(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}
