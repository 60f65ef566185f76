//! What this host says about itself: one picture of tier and devices feeds Redis, the gauges and the residency rows.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use engine::nvml::{Condition, NvmlView};
use residency::AGE_BOUNDS_SECONDS;
use shared::{
    db::{DbError, farm, residency::ResidencyRow},
    error::chain,
    status::{
        AgeCount, CacheStats, DeviceSnapshot, Entry, EvictedCounts, EvictionStanding, HostSnapshot, LiveProgress,
        MemoryPressure, Unaccounted, VariantEntry,
    },
};

use crate::{
    account,
    audit::{self, Auditor},
    context::{Agent, Device},
    decisions::Decisions,
    device_tier::{self, Standings},
    lease::Standing,
    managers::variants::Variant,
    memory,
    pressure::Pressure,
    residents,
    runner::{DeviceResident, RunnerState, RunnerStatus},
    running, vitals,
};

/// Time between pictures when nothing changes.
const PERIOD: Duration = Duration::from_secs(2);
/// Shortest time between pictures, so that a burst of changes becomes one.
const SETTLE: Duration = Duration::from_millis(100);

/// Publishes until the process stops.
pub async fn publish(agent: Arc<Agent>, standing: Standing) {
    let mut tier_changes = agent.tier.changes();
    let mut recorded: Option<Recorded> = None;
    let mut decisions = Decisions::default();
    let mut auditor = Auditor::default();
    loop {
        // before the picture: what a job writes after it is older or newer, and is compared once more
        let (stored, deaths) = (agent.stored.load(Ordering::Acquire), deaths(&agent));
        let snapshot = audited(&agent, &mut auditor, snapshot(&agent, standing.is_draining()));
        gauges(&agent, &snapshot);
        match agent.live.publish(&snapshot).await {
            Ok(()) => agent.metrics.redis_up.set(1),
            Err(error) => {
                agent.metrics.redis_up.set(0);
                tracing::debug!(error = %chain(&error), "status was not published");
            }
        }
        let now = Recorded::of(&agent, &snapshot, *standing.lapsed.borrow(), (stored, &deaths));
        if recorded.as_ref() != Some(&now) {
            match record(&agent, now).await {
                Ok(stored) => recorded = stored,
                Err(error) => tracing::warn!(error = %chain(&error), "residency was not recorded; trying again"),
            }
        }
        decisions.tell(&agent).await;
        tokio::time::sleep(SETTLE).await;
        tokio::select! {
            _ = tier_changes.changed() => {}
            () = agent.changed.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Compares the ledgers with what the system says; a picture with what differs.
fn audited(agent: &Agent, auditor: &mut Auditor, snapshot: HostSnapshot) -> HostSnapshot {
    let readings = audit::readings(&snapshot, agent.pressure.borrow().headroom_bytes);
    for reading in &readings {
        agent.metrics.unaccounted_bytes.with_label_values(&[&reading.tier]).set(reading.difference());
    }
    let audit = auditor.audit(&readings, Instant::now());
    for Unaccounted { tier, ledger_bytes, system_bytes, allowed_bytes } in &audit.news {
        tracing::warn!(tier, ledger_bytes, system_bytes, allowed_bytes, "the system says otherwise than the ledger");
    }
    agent.unaccounted.send_replace(audit.unaccounted.clone());
    HostSnapshot { unaccounted: audit.unaccounted, ..snapshot }
}

/// Publishes at once, before a job that changed what is resident is reported as succeeded: whoever reads after that must
/// not see the state before. Skipped while Redis is away.
pub async fn publish_now(agent: &Agent) {
    if agent.metrics.redis_up.get() == 1
        && let Err(error) = agent.live.publish(&snapshot(agent, false)).await
    {
        tracing::debug!(error = %chain(&error), "status was not published before a report");
    }
}

/// A device: id, state, reason, (total and used bytes), deaths of its runner.
type RecordedDevice = (String, String, Option<String>, (i64, i64), i64);

/// What the database is told, only when it differs from what it was told before.
#[derive(Debug, PartialEq)]
struct Recorded {
    rows: Vec<ResidencyRow>,
    devices: Vec<RecordedDevice>,
    /// Rows of an ended lease are removed by the leader: after a lapse all is told again.
    lapsed: Option<Instant>,
    /// How often jobs told the database of residency.
    stored: u64,
}

impl Recorded {
    fn of(
        agent: &Agent,
        snapshot: &HostSnapshot,
        lapsed: Option<Instant>,
        (stored, deaths): (u64, &HashMap<String, i64>),
    ) -> Self {
        let device = |device: &DeviceSnapshot| {
            let (total, used) = (signed(device.memory_total_bytes), signed(device.memory_used_bytes));
            let deaths = deaths.get(&device.id).copied().unwrap_or(0);
            (device.id.clone(), device.state.clone(), device.reason.clone(), (total, used), deaths)
        };
        let devices = snapshot.devices.iter().map(device).collect();
        Self { rows: residents::rows(agent, snapshot), devices, lapsed, stored }
    }
}

/// How often the runner of each device has ended. One that ends between this and a picture is counted with the next one: the other way
/// round its device would be ready, as if another had been started.
fn deaths(agent: &Agent) -> HashMap<String, i64> {
    let one = |device: &Device| (device.id.clone(), signed(device.runner.status().borrow().restarts_total));
    agent.devices.values().map(one).collect()
}

/// What was written, as it was at that moment; none where nothing was, because this agent has no lease now.
async fn record(agent: &Agent, now: Recorded) -> Result<Option<Recorded>, DbError> {
    let mut tx = agent.pool.begin().await?;
    let Some(report) = residents::store(agent, &mut tx).await? else { return Ok(None) };
    farm::tell_back(&mut tx, &agent.host).await?;
    for (id, state, reason, bytes, deaths) in &now.devices {
        farm::set_device(&mut *tx, id, state, reason.as_deref(), *bytes, *deaths).await?;
    }
    tx.commit().await?;
    residents::told(agent, &report);
    Ok(Some(Recorded { rows: report.rows, ..now }))
}

/// The whole host at this moment.
pub fn snapshot(agent: &Agent, draining: bool) -> HostSnapshot {
    let tier = agent.tier.snapshot();
    let stats = &tier.stats;
    let system_bytes = agent.tier.accounted_vs_system().map_or(0, |audit| audit.system_bytes);
    // read once and let go: a second look under the first would wait for a writer that waits for the first
    let pressure = pressure_view(&agent.pressure.borrow());
    let memory_account = account::of_host(agent);
    let statuses: Vec<(&Device, RunnerStatus)> =
        agent.devices.values().map(|device| (device, device.runner.status().borrow().clone())).collect();
    let nvml = agent.vitals.view();
    let pids: Vec<u32> = statuses.iter().filter_map(|(_, status)| status.pid).collect();
    let device_generations: u64 =
        statuses.iter().map(|(device, status)| status.generation + *device.tier.changes().borrow()).sum();
    HostSnapshot {
        host: agent.host.clone(),
        incarnation: agent.me,
        generation: tier.generation + device_generations,
        at: Utc::now(),
        ram: CacheStats {
            budget_bytes: tier.ledger.budget_bytes,
            configured_bytes: tier.ledger.configured_bytes,
            used_bytes: tier.ledger.used_bytes,
            reserved_bytes: tier.ledger.reserved_bytes,
            system_bytes,
            hits: stats.hits_total,
            misses: stats.misses_total,
            joins: stats.joins_total,
            evictions: stats.evictions_total.total(),
            load_failures: stats.load_failures_total,
            stalled_loads: stats.loads_stalled_total,
            hung_disks: agent.tier.hung_disks() as u64,
            loaded_bytes: stats.bytes_loaded_total,
            evicted: evicted(&stats.evictions_total),
            evicted_bytes: stats.evicted_bytes_total,
            early_reloads: stats.early_reloads_total,
            eviction_ages: ages(&stats.ages),
            eviction_ages_ms: stats.ages_ms_total,
        },
        entries: tier.entries.iter().filter_map(ram_entry).collect(),
        devices: statuses
            .iter()
            .map(|(device, status)| device_snapshot(agent, device, status, nvml.as_ref()))
            .collect(),
        jobs: agent.running.view(),
        watches: agent.watches.views(),
        draining,
        nvml: nvml.as_ref().map(|view| vitals::nvml_status(view, &pids)),
        unaccounted: agent.unaccounted.borrow().clone(),
        ram_policy: Some(agent.tier.policy().as_str().to_owned()),
        pressure: Some(pressure),
        memory: Some(memory_account),
        process_rss_bytes: memory::own_rss_bytes() + statuses.iter().map(|(_, status)| status.rss_bytes).sum::<u64>(),
    }
}

fn evicted(counts: &residency::EvictionCounts) -> EvictedCounts {
    EvictedCounts {
        room: counts.room,
        pressure: counts.pressure,
        expired: counts.expired,
        requested: counts.requested,
        cleared: counts.cleared,
        duplicate: counts.duplicate,
        superseded: counts.superseded,
        optimized: counts.optimized,
    }
}

fn ages(counts: &[u64]) -> Vec<AgeCount> {
    let bounds = AGE_BOUNDS_SECONDS.iter().copied().map(Some).chain([None]);
    bounds.zip(counts).map(|(up_to_seconds, count)| AgeCount { up_to_seconds, count: *count }).collect()
}

fn pressure_view(seen: &Pressure) -> MemoryPressure {
    let (sample, group) = (&seen.sample, seen.sample.group.as_ref());
    MemoryPressure {
        level: seen.level.as_str().to_owned(),
        cause: (!seen.cause.is_empty()).then(|| seen.cause.clone()),
        available_bytes: sample.available_bytes,
        headroom_bytes: seen.headroom_bytes,
        group_limit_bytes: group.map(|group| group.limit_bytes),
        group_used_bytes: group.map(|group| group.used_bytes),
        stalled_some_percent: sample.stalled_some_percent,
        stalled_full_percent: sample.stalled_full_percent,
    }
}

fn ram_entry(entry: &residency::EntrySnapshot) -> Option<Entry> {
    use residency::entry::{FailReason, State};
    let state = match entry.state {
        State::Absent => return None,
        State::Loading => "loading",
        State::Ready => "ready",
        State::Evicting => "evicting",
        // nothing is wrong with it, and nothing was read: whoever wants it waits, or its job says so
        State::Failed(FailReason::NoRoom) => return None,
        State::Failed(_) => "failed",
    };
    let last_used = from_unix_ms(entry.last_used_unix_ms);
    Some(Entry {
        // keys of this tier are component ids; anything else is not ours to show
        component: entry.key.parse().ok()?,
        state: state.to_owned(),
        bytes: entry.bytes,
        leases: entry.leases,
        protected: entry.protected,
        since: entry.loaded_unix_ms.map_or(last_used, from_unix_ms),
        last_used,
        hits: entry.hits,
        holders: entry.holders.clone(),
        brought_by: entry.wanted_by.as_deref().and_then(running::job_of),
        models: Vec::new(),
        expires_at: entry.expires_in_ms.map(|left| Utc::now() + Duration::from_millis(left)),
        eviction: entry.standing.as_ref().map(standing_view),
        progress: load_progress(entry),
        failure: entry.failure.clone(),
    })
}

fn load_progress(entry: &residency::EntrySnapshot) -> Option<LiveProgress> {
    let residency::ProgressSnapshot { phase, bytes_done, bytes_total } = entry.progress?;
    let left = bytes_total.saturating_sub(bytes_done) as f64;
    Some(LiveProgress {
        phase: phase.as_str().to_owned(),
        bytes_done,
        bytes_total,
        bytes_per_second: entry.bytes_per_second,
        eta_seconds: entry.bytes_per_second.map(|rate| left / rate),
    })
}

fn standing_view(standing: &residency::Standing) -> EvictionStanding {
    let row = &standing.row;
    EvictionStanding {
        place: standing.place,
        bytes_before: standing.bytes_before,
        reload_seconds: row.reload_seconds,
        reuses_per_hour: row.reuses_per_hour,
        score: row.score,
        young: row.young,
    }
}

fn device_snapshot(agent: &Agent, device: &Device, status: &RunnerStatus, nvml: Option<&NvmlView>) -> DeviceSnapshot {
    let standings = device_tier::standings(agent, device);
    let uuid = status.facts.as_ref().and_then(|facts| facts.uuid.as_deref());
    let (condition, vitals) = match nvml.zip(uuid) {
        Some((view, uuid)) => {
            let pids: Vec<u32> = status.pid.into_iter().collect();
            (engine::nvml::condition(view, uuid), Some(vitals::device_vitals(view, uuid, &pids)))
        }
        None => (Condition::Good, None),
    };
    let (state, reason) = device_state(status, &condition);
    let variants = device.variants.among(&status.resident);
    // a variant is no component of the catalogue; one that is being made has no note yet
    let components = status.resident.iter().filter(|copy| copy.variant.is_none());
    DeviceSnapshot {
        id: device.id.clone(),
        state: state.to_owned(),
        reason,
        memory_total_bytes: status.memory.capacity_bytes,
        memory_used_bytes: status.memory.used_bytes,
        memory_system_bytes: Some(status.memory.system_bytes),
        vitals,
        entries: components.map(|copy| device_entry(device, copy, &standings)).collect(),
        variants: variants.iter().map(|(variant, copy)| variant_entry(device, variant, copy, &standings)).collect(),
        policy: Some(device.tier.rules().policy.as_str().to_owned()),
    }
}

/// A device that must not get work is quarantined, whatever its process says.
fn device_state(runner: &RunnerStatus, condition: &Condition) -> (&'static str, Option<String>) {
    match (&runner.state, condition) {
        (_, Condition::Broken { reason } | Condition::Unknown { reason }) => ("quarantined", Some(reason.clone())),
        (RunnerState::Ready, _) => ("ready", None),
        (RunnerState::Starting, _) => ("lost", Some(runner.why_starting())),
        (RunnerState::Down { reason }, _) => ("lost", Some(reason.clone())),
    }
}

/// `leases` does not count jobs that are under way: an unload waits behind them in the device's queue, and only programs would have
/// it refused. Who they are is told all the same.
fn device_entry(device: &Device, copy: &DeviceResident, standings: &Standings) -> Entry {
    let noted = device.tier.noted(copy);
    Entry {
        component: copy.component,
        state: "ready".to_owned(),
        bytes: copy.bytes,
        leases: copy.leases,
        protected: noted.protected,
        since: copy.since,
        last_used: noted.used_at.unwrap_or(copy.last_used),
        hits: noted.uses.max(copy.uses),
        holders: noted.holders,
        brought_by: noted.brought_by,
        models: noted.models,
        expires_at: noted.expires_in.map(|left| Utc::now() + left),
        eviction: standings.get(copy.component.to_string().as_str()).map(standing_view),
        progress: None,
        failure: None,
    }
}

fn variant_entry(device: &Device, variant: &Variant, copy: &DeviceResident, standings: &Standings) -> VariantEntry {
    let noted = device.tier.noted(copy);
    VariantEntry {
        id: variant.id,
        base: variant.base,
        kind: variant.kind.clone(),
        key: variant.key.clone(),
        bytes: copy.bytes,
        whole: variant.is_whole,
        loras: variant.loras.clone(),
        pipelines: variant.pipelines.values().cloned().collect(),
        seconds: variant.seconds,
        leases: copy.leases,
        protected: noted.protected,
        since: copy.since,
        last_used: noted.used_at.unwrap_or(copy.last_used),
        hits: noted.uses.max(copy.uses),
        expires_at: noted.expires_in.map(|left| Utc::now() + left),
        eviction: standings.get(copy.component.to_string().as_str()).map(standing_view),
    }
}

fn gauges(agent: &Agent, snapshot: &HostSnapshot) {
    let metrics = &agent.metrics;
    let ram = &snapshot.ram;
    set_tier(metrics, "ram", ram.used_bytes, ram.budget_bytes);
    for (answer, count) in [("hit", ram.hits), ("miss", ram.misses), ("join", ram.joins), ("evicted", ram.evictions)] {
        metrics.cache_requests.with_label_values(&[answer]).set(signed(count));
    }
    metrics.loaded_bytes.inc_by(ram.loaded_bytes.saturating_sub(metrics.loaded_bytes.get()));
    metrics.stalled_loads.inc_by(ram.stalled_loads.saturating_sub(metrics.stalled_loads.get()));
    metrics.hung_disks.set(signed(ram.hung_disks));
    metrics.early_reloads.inc_by(ram.early_reloads.saturating_sub(metrics.early_reloads.get()));
    if let Some(pressure) = &snapshot.pressure {
        metrics.pressure.observe(pressure);
    }
    for device in &snapshot.devices {
        let name = device.id.rsplit('/').next().unwrap_or(&device.id);
        set_tier(metrics, name, device.memory_used_bytes, device.memory_total_bytes);
        let bytes = device.variants.iter().map(|variant| variant.bytes).sum();
        metrics.variants.holds(name, device.variants.len() as u64, bytes);
    }
}

fn set_tier(metrics: &crate::metrics::Metrics, tier: &str, used: u64, limit: u64) {
    metrics.tier_bytes.with_label_values(&[tier]).set(signed(used));
    metrics.tier_limit_bytes.with_label_values(&[tier]).set(signed(limit));
}

fn from_unix_ms(ms: u64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(signed(ms)).unwrap_or(DateTime::UNIX_EPOCH)
}

pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
