//! Writes of the states of hosts and devices: each statement that changes one writes the events that tell of it, so that neither is ever
//! there without the other. All but a drain are made under the host's lock of residency, one after the other.
//!
//! A lost device is told once: how its runner fares until it is back is no news. A quarantined one is told again with another reason.

use std::collections::BTreeSet;

use sqlx::{PgConnection, PgExecutor};

use super::{DeviceRow, Registration};
use crate::db::DbError;

/// `$ctes` end with `told`: what (a host where it has no device) went from which state to which, and why.
macro_rules! telling {
    ($ctes:literal) => {
        concat!(
            $ctes,
            " insert into host_events (type, host, device, data)
              select case when t.device is null then 'host.' else 'device.' end || t.state, t.host, t.device,
                     jsonb_strip_nulls(jsonb_build_object('from', t.was, 'to', t.state, 'reason', t.reason))
              from told t order by t.host, t.device nulls first"
        )
    };
}

/// The host of an agent that registers, which has its row. Each start is told: what ran there before is gone.
pub(super) async fn tell_started(tx: &mut PgConnection, host: &str) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with before as (
             select name, told_state from hosts where name = $1
         ), stored as (
             update hosts h set told_state = 'ready' from before b where h.name = b.name
         ), told as (
             select name as host, null as device, told_state as was, 'ready' as state, 'its agent was started' as reason from before
         )"
    ))
    .bind(host)
    .execute(tx)
    .await?;
    Ok(())
}

/// The devices of that host; those that it does not have any more are lost.
pub(super) async fn register_devices(tx: &mut PgConnection, agent: &Registration) -> Result<(), DbError> {
    let ids: Vec<&str> = agent.devices.iter().map(|device| device.id.as_str()).collect();
    sqlx::query(telling!(
        "with before as (
             select id, host, state from devices where host = $1 and not id = any($2)
         ), stored as (
             update devices d set state = 'lost', reason = 'not reported by the agent', updated_at = now()
             from before b where d.id = b.id
         ), told as (
             select host, id as device, state as was, 'lost' as state, 'not reported by the agent' as reason
             from before where state <> 'lost'
         )"
    ))
    .bind(&agent.host)
    .bind(&ids)
    .execute(&mut *tx)
    .await?;
    for device in &agent.devices {
        register_device(tx, device).await?;
    }
    Ok(())
}

async fn register_device(tx: &mut PgConnection, device: &DeviceRow) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with before as (
             select state, reason from devices where id = $1
         ), stored as (
             insert into devices (id, host, name, kind, uuid, product, memory_total_bytes, memory_used_bytes, slots, labels, state, reason,
                                  runner_generation)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
             on conflict (id) do update set kind = excluded.kind, uuid = excluded.uuid, product = excluded.product,
                 memory_total_bytes = excluded.memory_total_bytes, memory_used_bytes = excluded.memory_used_bytes,
                 slots = excluded.slots, labels = excluded.labels, state = excluded.state, reason = excluded.reason,
                 runner_generation = excluded.runner_generation, updated_at = now()
         ), told as (
             select $2 as host, $1 as device, b.state as was, $11 as state, $12 as reason
             from (select 1) one left join before b on true
             where b.state is distinct from $11 or ($11 = 'quarantined' and b.reason is distinct from $12)
         )"
    ))
    .bind(&device.id)
    .bind(&device.host)
    .bind(&device.name)
    .bind(&device.kind)
    .bind(&device.uuid)
    .bind(&device.product)
    .bind(device.memory_total_bytes)
    .bind(device.memory_used_bytes)
    .bind(device.slots)
    .bind(&device.labels)
    .bind(&device.state)
    .bind(&device.reason)
    .bind(device.runner_generation)
    .execute(tx)
    .await?;
    Ok(())
}

/// Records the state of one device, when it changes outside a registration; the caller has locked its host. A runner that ended and was
/// there again before anybody looked is told as well.
///
/// # Errors
/// Database errors.
pub async fn set_device(
    db: impl PgExecutor<'_>,
    id: &str,
    state: &str,
    reason: Option<&str>,
    (memory_total_bytes, memory_used_bytes): (i64, i64),
    runner_generation: i64,
) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with before as (
             select id, host, state, reason, runner_generation from devices
             where id = $1 and (state, reason, memory_total_bytes, memory_used_bytes, runner_generation)
                 is distinct from ($2, $3, $4, $5, $6)
         ), stored as (
             update devices d set state = $2, reason = $3, memory_total_bytes = $4, memory_used_bytes = $5, runner_generation = $6,
                 updated_at = now()
             from before b where d.id = b.id
         ), compared as (
             select *, state = 'ready' and $2 = 'ready' and runner_generation < $6 as ended_meanwhile from before
         ), told as (
             select host, id as device, state as was, $2 as state,
                    case when ended_meanwhile then 'its runner ended and another one was started' else $3 end as reason
             from compared where ended_meanwhile or state <> $2 or ($2 = 'quarantined' and reason is distinct from $3)
         )"
    ))
    .bind(id)
    .bind(state)
    .bind(reason)
    .bind(memory_total_bytes)
    .bind(memory_used_bytes)
    .bind(runner_generation)
    .execute(db)
    .await?;
    Ok(())
}

/// Who wants a host drained, or does not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// The operator asks it to take no new work.
    Asked,
    /// The operator lets it take work again.
    TakenBack,
    /// Its own agent is on its way out.
    Leaving,
}

impl Drain {
    fn reason(self) -> &'static str {
        match self {
            Self::Asked => "drained by the operator",
            Self::TakenBack => "undrained by the operator",
            Self::Leaving => "its agent is stopping",
        }
    }
}

/// Asks a host to take no new work, or to take it again; nothing where there is no such host. One that was told to be lost stays so
/// until its agent is back.
///
/// # Errors
/// Database errors.
pub async fn set_draining(db: impl PgExecutor<'_>, host: &str, drain: Drain) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with before as (
             select name, told_state from hosts where name = $1 for no key update
         ), stored as (
             update hosts h set draining = $2, told_state = case
                 when b.told_state = 'lost' then 'lost' when $2 then 'draining' else 'ready' end
             from before b where h.name = b.name
             returning h.name, b.told_state as was, h.told_state as state
         ), told as (
             select name as host, null as device, was, state, $3::text as reason from stored where was is distinct from state
         )"
    ))
    .bind(host)
    .bind(drain != Drain::TakenBack)
    .bind(drain.reason())
    .execute(db)
    .await?;
    Ok(())
}

/// A host that was told to be lost and has its lease again, by its agent, which has locked it and holds the lease.
///
/// # Errors
/// Database errors.
pub async fn tell_back(db: impl PgExecutor<'_>, host: &str) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with before as (
             select name, draining from hosts where name = $1 and told_state = 'lost' for no key update
         ), stored as (
             update hosts h set told_state = case when b.draining then 'draining' else 'ready' end
             from before b where h.name = b.name
             returning h.name, h.told_state as state
         ), told as (
             select name as host, null as device, 'lost' as was, state, 'its agent has its lease again' as reason from stored
         )"
    ))
    .bind(host)
    .execute(db)
    .await?;
    Ok(())
}

/// Hosts whose agents have no valid lease, where that was not told yet of them or of a device.
///
/// # Errors
/// Database errors.
pub async fn newly_lost(db: impl PgExecutor<'_>) -> Result<BTreeSet<String>, DbError> {
    let hosts: Vec<String> = sqlx::query_scalar(
        "select h.name from hosts h
         where not exists (select 1 from host_leases l where l.incarnation = h.incarnation and l.lease_until > now())
             and (h.told_state is distinct from 'lost' or exists (select 1 from devices d where d.host = h.name and d.state <> 'lost'))",
    )
    .fetch_all(db)
    .await?;
    Ok(hosts.into_iter().collect())
}

/// Of these hosts, which the caller has locked, those whose agents have no valid lease are lost with their devices. An agent that has its
/// lease again afterwards records how its devices are, once it may have the lock.
///
/// # Errors
/// Database errors.
pub async fn tell_lost(db: impl PgExecutor<'_>, hosts: &BTreeSet<String>) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with gone as (
             select h.name, h.told_state as was, case
                 when exists (select 1 from host_leases l where l.incarnation = h.incarnation) then 'the lease of its agent has expired'
                 else 'its agent has stopped' end as reason
             from hosts h
             where h.name = any($1)
                 and not exists (select 1 from host_leases l where l.incarnation = h.incarnation and l.lease_until > now())
             order by h.name for no key update
         ), with_them as (
             select d.id, d.host, d.state as was, g.reason from devices d join gone g on g.name = d.host where d.state <> 'lost'
         ), hosts_stored as (
             update hosts h set told_state = 'lost' from gone g where h.name = g.name and g.was is distinct from 'lost'
         ), devices_stored as (
             update devices d set state = 'lost', reason = w.reason, updated_at = now() from with_them w where d.id = w.id
         ), told as (
             select name as host, null as device, was, 'lost' as state, reason from gone where was is distinct from 'lost'
             union all
             select host, id, was, 'lost', reason from with_them
         )"
    ))
    .bind(hosts.iter().collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}
