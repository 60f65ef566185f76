//! Decisions of the RAM tier and of the devices on their way to the metrics and to the database, each once.

use std::{collections::BTreeMap, time::Duration};

use residency::{Decision, policy::PlanRow};
use shared::{
    db::{
        DbError,
        evictions::{self, NewEviction},
    },
    error::chain,
    ids::ComponentId,
    wire::EvictionCandidate,
};

use crate::{context::Agent, metrics::Metrics};

/// How far the decisions of each tier were told; the RAM tier goes by the empty name.
#[derive(Debug, Default)]
pub struct Decisions {
    told: BTreeMap<String, Told>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Told {
    counted: u64,
    recorded: u64,
}

impl Decisions {
    /// Counts and records what is new. What the database does not take is offered again; each tier keeps its last few
    /// hundred decisions meanwhile.
    pub async fn tell(&mut self, agent: &Agent) {
        let ram =
            Tier { device: "", name: None, now: agent.tier.uptime(), after: &|seq| agent.tier.decisions_after(seq) };
        tell_of(agent, &ram, self.told.entry(String::new()).or_default()).await;
        for (id, device) in &agent.devices {
            let after = |seq| device.tier.decisions_after(seq);
            let tier = Tier { device: id, name: Some(&device.name), now: device.tier.uptime(), after: &after };
            tell_of(agent, &tier, self.told.entry(id.clone()).or_default()).await;
        }
    }
}

/// One tier as a source of decisions.
struct Tier<'t> {
    device: &'t str,
    /// The device's name on this host.
    name: Option<&'t str>,
    now: Duration,
    after: &'t (dyn Fn(u64) -> Vec<Decision> + Sync),
}

async fn tell_of(agent: &Agent, tier: &Tier<'_>, told: &mut Told) {
    for decision in (tier.after)(told.counted) {
        told.counted = decision.seq;
        match tier.name {
            None => count(&agent.metrics, &decision),
            Some(device) => count_of_device(&agent.metrics, device, &decision),
        }
    }
    if told.counted == told.recorded {
        return;
    }
    let new = (tier.after)(told.recorded);
    let Some(last) = new.last().map(|decision| decision.seq) else { return };
    match record(agent, tier, &new).await {
        Ok(()) => told.recorded = last,
        Err(error) => tracing::debug!(error = %chain(&error), "evictions were not recorded; trying again"),
    }
}

fn count(metrics: &Metrics, decision: &Decision) {
    let reason = decision.reason.as_str();
    for row in decision.victims() {
        metrics.evictions.with_label_values(&[reason]).inc();
        metrics.evicted_bytes.with_label_values(&[reason]).inc_by(row.bytes);
        metrics.eviction_age_seconds.observe(row.age_ms as f64 / 1000.0);
        metrics.eviction_idle_seconds.observe(row.idle_ms as f64 / 1000.0);
    }
}

/// Copies on a device may share memory: what came back may be less than the sum of their bytes.
fn count_of_device(metrics: &Metrics, device: &str, decision: &Decision) {
    let labels = [device, decision.reason.as_str()];
    metrics.device_evictions.with_label_values(&labels).inc_by(decision.victims().count() as u64);
    metrics.device_evicted_bytes.with_label_values(&labels).inc_by(decision.freed_bytes);
}

async fn record(agent: &Agent, tier: &Tier<'_>, decisions: &[Decision]) -> Result<(), DbError> {
    let rows: Vec<NewEviction> = decisions.iter().map(|one| row_of(one, tier.now)).collect();
    let mut tx = agent.pool.begin().await?;
    evictions::record(&mut tx, (&agent.host, tier.device), agent.me, &rows).await?;
    Ok(tx.commit().await?)
}

fn row_of(decision: &Decision, now: Duration) -> NewEviction {
    let candidates: Vec<EvictionCandidate> = decision.rows.iter().filter_map(candidate).collect();
    NewEviction {
        seq: signed(decision.seq),
        ago_seconds: now.saturating_sub(decision.since_start).as_secs_f64(),
        reason: decision.reason.as_str(),
        policy: decision.policy.map(residency::policy::Policy::as_str),
        wanted: decision.wanted.clone(),
        wanted_bytes: signed(decision.wanted_bytes),
        need_bytes: signed(decision.need_bytes),
        freed_bytes: signed(decision.freed_bytes),
        victims: decision.victims().map(|row| row.key.clone()).collect(),
        candidates: serde_json::json!(candidates),
        omitted: signed(decision.omitted),
    }
}

/// Keys of the tiers are component ids; anything else is not ours to show.
fn candidate(row: &PlanRow) -> Option<EvictionCandidate> {
    let component: ComponentId = row.key.parse().ok()?;
    Some(EvictionCandidate {
        component,
        name: None,
        verdict: row.verdict.as_str().to_owned(),
        bytes: row.bytes,
        age_seconds: row.age_ms as f64 / 1000.0,
        idle_seconds: row.idle_ms as f64 / 1000.0,
        hits: row.hits,
        reload_seconds: row.reload_seconds,
        reuses_per_hour: row.reuses_per_hour,
        score: row.score,
        young: row.young,
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
