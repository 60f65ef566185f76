//! Hosts, the leases of their agents, devices and roots.

mod states;

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool};

use super::{DbError, residency, seconds};
use crate::ids::{Incarnation, JobId};

pub use states::{Drain, Unleased, newly_lost, set_device, set_draining, tell_back, tell_lost, try_take};

/// What an agent says of itself when it starts.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Host name.
    pub host: String,
    /// This start of the agent.
    pub incarnation: Incarnation,
    /// Build version.
    pub agent_version: String,
    /// Labels that jobs may ask for.
    pub labels: Vec<String>,
    /// Host-lane jobs at a time.
    pub slots: i32,
    /// Budget of the RAM tier in bytes.
    pub ram_budget_bytes: i64,
    /// Capability flags (ONNX Runtime found, driver found, …) with reasons.
    pub capabilities: serde_json::Value,
    /// Devices with a runner.
    pub devices: Vec<DeviceRow>,
    /// Model roots: (name, path, reason when it cannot be read).
    pub roots: Vec<(String, String, Option<String>)>,
}

/// A device as registered.
#[derive(Debug, Clone, FromRow)]
pub struct DeviceRow {
    /// `<host>/<name>`.
    pub id: String,
    /// Host name.
    pub host: String,
    /// `cpu:0`, `cuda:1`.
    pub name: String,
    /// `cpu` or `cuda`.
    pub kind: String,
    /// Vendor UUID.
    pub uuid: Option<String>,
    /// Product name.
    pub product: String,
    /// Capacity for weights in bytes.
    pub memory_total_bytes: i64,
    /// Bytes in use, as last reported.
    pub memory_used_bytes: i64,
    /// Jobs at a time.
    pub slots: i32,
    /// Labels that jobs may ask for.
    pub labels: Vec<String>,
    /// `ready`, `draining`, `lost`, `quarantined`.
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Deaths of its runner since its agent started, as last reported.
    pub runner_generation: i64,
}

/// A host with the state of its lease.
#[derive(Debug, Clone, FromRow)]
pub struct HostRow {
    /// Host name.
    pub name: String,
    /// The agent that registered last.
    pub incarnation: Incarnation,
    /// Build version.
    pub agent_version: String,
    /// Takes no new work.
    pub draining: bool,
    /// Labels.
    pub labels: Vec<String>,
    /// Host-lane jobs at a time.
    pub slots: i32,
    /// RAM tier budget in bytes.
    pub ram_budget_bytes: i64,
    /// Capability flags.
    pub capabilities: serde_json::Value,
    /// When the agent registered.
    pub registered_at: DateTime<Utc>,
    /// End of the registered agent's lease; absent when it gave it up.
    pub lease_until: Option<DateTime<Utc>>,
    /// The lease is valid by the database's clock.
    pub alive: bool,
}

/// A root of a host.
#[derive(Debug, Clone, FromRow)]
pub struct RootRow {
    /// Host name.
    pub host: String,
    /// Root name, equal on hosts that hold the same library.
    pub name: String,
    /// Folder on the host.
    pub path: String,
    /// `ready` or `missing`.
    pub state: String,
    /// Why it is missing.
    pub reason: Option<String>,
    /// Last finished scan.
    pub scanned_at: Option<DateTime<Utc>>,
}

/// Registers an agent: host, devices, roots and its first lease, in the caller's transaction.
/// The lease of a predecessor is left to expire, because it may still be running work.
///
/// # Errors
/// Database errors.
pub async fn register(tx: &mut PgConnection, agent: &Registration, ttl: Duration) -> Result<(), DbError> {
    // the catalogue first: the commit of a job has its models by the time it writes what is resident
    leave_roots(tx, agent).await?;
    // before the rows of host and devices: a predecessor that reports has them after it
    residency::lock(tx, &BTreeSet::from([agent.host.clone()])).await?;
    sqlx::query(
        "insert into hosts (name, incarnation, agent_version, labels, slots, ram_budget_bytes, capabilities)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (name) do update set incarnation = excluded.incarnation, agent_version = excluded.agent_version,
             draining = false, labels = excluded.labels, slots = excluded.slots,
             ram_budget_bytes = excluded.ram_budget_bytes, capabilities = excluded.capabilities, registered_at = now()",
    )
    .bind(&agent.host)
    .bind(agent.incarnation)
    .bind(&agent.agent_version)
    .bind(&agent.labels)
    .bind(agent.slots)
    .bind(agent.ram_budget_bytes)
    .bind(&agent.capabilities)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into host_leases (incarnation, host, lease_until) values ($1, $2, now() + make_interval(secs => $3))",
    )
    .bind(agent.incarnation)
    .bind(&agent.host)
    .bind(seconds(ttl))
    .execute(&mut *tx)
    .await?;
    register_roots(tx, agent).await?;
    // late: streams wait for whoever has written events
    states::tell_started(tx, &agent.host).await?;
    states::register_devices(tx, agent).await?;
    residency::remove_of_predecessors(tx, &agent.host, agent.incarnation).await?;
    notify(tx, super::listen::SCHEDULE, "").await
}

/// Takes the host's roots off that the agent does not have, and with them what they hold. Models are locked first, as by everybody who changes
/// what is listed.
async fn leave_roots(tx: &mut PgConnection, agent: &Registration) -> Result<(), DbError> {
    let names: Vec<&str> = agent.roots.iter().map(|(name, ..)| name.as_str()).collect();
    for leave in [
        "select 1 from models where id in (select model_id from model_locations where host = $1 and not root = any($2))
         order by root, rel_path for no key update",
        "delete from model_locations where host = $1 and not root = any($2)",
        "delete from roots where host = $1 and not name = any($2)",
    ] {
        sqlx::query(leave).bind(&agent.host).bind(&names).execute(&mut *tx).await?;
    }
    Ok(())
}

async fn register_roots(tx: &mut PgConnection, agent: &Registration) -> Result<(), DbError> {
    for (name, path, reason) in &agent.roots {
        let state = if reason.is_some() { "missing" } else { "ready" };
        sqlx::query(
            "insert into roots (host, name, path, state, reason) values ($1, $2, $3, $4, $5)
             on conflict (host, name) do update set path = excluded.path, state = excluded.state, reason = excluded.reason",
        )
        .bind(&agent.host)
        .bind(name)
        .bind(path)
        .bind(state)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The database's answer to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// False when the lease row is gone: this agent may hold nothing any more.
    pub renewed: bool,
    /// A newer agent registered for this host: stop.
    pub superseded: bool,
    /// The operator asked this host to drain.
    pub draining: bool,
    /// This host was told to be lost, with its devices: the lease had ended by the database's clock.
    pub told_lost: bool,
    /// Running here, and somebody asked to cancel.
    pub cancels: Vec<JobId>,
    /// Said to be running here, but no longer ours.
    pub lost: Vec<JobId>,
    /// The database believes these run here, but the agent did not name them.
    pub strays: Vec<(JobId, i64)>,
}

/// Renews the lease and compares the jobs that really run here with what the database believes.
/// A claim younger than `claim_grace` is not called a stray: its hand-over may be under way.
///
/// # Errors
/// Database errors; the caller's own deadline then counts on.
pub async fn heartbeat(
    db: &mut PgConnection,
    host: &str,
    me: Incarnation,
    running: &[(JobId, i64)],
    ttl: Duration,
    claim_grace: Duration,
) -> Result<Heartbeat, DbError> {
    let renewed =
        sqlx::query("update host_leases set lease_until = now() + make_interval(secs => $2) where incarnation = $1")
            .bind(me)
            .bind(seconds(ttl))
            .execute(&mut *db)
            .await?
            .rows_affected()
            == 1;
    let host_row: Option<(Incarnation, bool, bool)> = sqlx::query_as(
        "select h.incarnation, h.draining, coalesce(s.told = 'lost', false)
         from hosts h left join host_states s on s.host = h.name where h.name = $1",
    )
    .bind(host)
    .fetch_optional(&mut *db)
    .await?;
    let believed: Vec<(JobId, i64, bool, bool)> = sqlx::query_as(
        "select id, fence, cancel_requested_at is not null, coalesce(claimed_at < now() - make_interval(secs => $2), true)
         from jobs where incarnation = $1 and state = 'running'",
    )
    .bind(me)
    .bind(seconds(claim_grace))
    .fetch_all(&mut *db)
    .await?;

    let named = |id: JobId, fence: i64| running.contains(&(id, fence));
    Ok(Heartbeat {
        renewed,
        superseded: host_row.as_ref().is_none_or(|(incarnation, ..)| *incarnation != me),
        draining: host_row.as_ref().is_some_and(|(_, draining, _)| *draining),
        told_lost: host_row.is_some_and(|(incarnation, _, lost)| incarnation == me && lost),
        cancels: believed
            .iter()
            .filter(|(id, fence, cancel, _)| *cancel && named(*id, *fence))
            .map(|row| row.0)
            .collect(),
        lost: running
            .iter()
            .filter(|(id, fence)| !believed.iter().any(|row| row.0 == *id && row.1 == *fence))
            .map(|(id, _)| *id)
            .collect(),
        strays: believed
            .iter()
            .filter(|(id, fence, _, old)| *old && !named(*id, *fence))
            .map(|row| (row.0, row.1))
            .collect(),
    })
}

/// Gives the lease up, and with it what was resident; called when all jobs have been reported or handed back.
///
/// # Errors
/// Database errors.
pub async fn release_lease(pool: &PgPool, me: Incarnation) -> Result<(), DbError> {
    let mut tx = pool.begin().await?;
    let host: Option<String> = sqlx::query_scalar("select host from host_leases where incarnation = $1")
        .bind(me)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(host) = host {
        let hosts = BTreeSet::from([host]);
        // before the lease's row, as by everybody who writes what is resident
        residency::lock(&mut tx, &hosts).await?;
        sqlx::query("delete from host_leases where incarnation = $1").bind(me).execute(&mut *tx).await?;
        // before any event is written, as it may have to be waited for
        states::take(&mut tx, &hosts).await?;
        residency::remove_unleased(&mut tx, &hosts).await?;
        tell_lost(&mut *tx, &hosts, Unleased::GivenUp).await?;
    }
    Ok(tx.commit().await?)
}

/// All hosts by name.
///
/// # Errors
/// Database errors.
pub async fn list_hosts(db: impl PgExecutor<'_>) -> Result<Vec<HostRow>, DbError> {
    Ok(sqlx::query_as(
        "select h.*, l.lease_until, coalesce(l.lease_until > now(), false) as alive
         from hosts h left join host_leases l on l.incarnation = h.incarnation order by h.name",
    )
    .fetch_all(db)
    .await?)
}

/// All devices by id.
///
/// # Errors
/// Database errors.
pub async fn list_devices(db: impl PgExecutor<'_>) -> Result<Vec<DeviceRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, host, name, kind, uuid, product, memory_total_bytes, memory_used_bytes, slots, labels, state, reason,
             runner_generation
         from devices order by id",
    )
    .fetch_all(db)
    .await?)
}

/// All roots by host and name.
///
/// # Errors
/// Database errors.
pub async fn list_roots(db: impl PgExecutor<'_>) -> Result<Vec<RootRow>, DbError> {
    Ok(sqlx::query_as("select host, name, path, state, reason, scanned_at from roots order by host, name")
        .fetch_all(db)
        .await?)
}

/// Sends a wake-up hint at commit.
///
/// # Errors
/// Database errors.
pub async fn notify(db: impl PgExecutor<'_>, channel: &str, payload: &str) -> Result<(), DbError> {
    sqlx::query("select pg_notify($1, $2)").bind(channel).bind(payload).execute(db).await?;
    Ok(())
}
