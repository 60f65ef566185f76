//! Writes of the states of hosts and devices: each statement that changes one writes the events that tell of it, so that neither is ever
//! there without the other. All but a drain are made under the host's lock of residency, one after the other. What is told of a host itself is
//! told with its row taken before, by a statement of its own: the one that tells then sees what others have told, and holds the table of events
//! for no longer than it takes.
//!
//! A lost device is told once: how its runner fares until it is back is no news. A quarantined one is told again with another reason.

use std::collections::BTreeSet;

use sqlx::{PgConnection, PgExecutor};

use super::{DeviceRow, Registration};
use crate::{db::DbError, ids::Incarnation};

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

/// The host of an agent that registers, which has taken its row. Each start is told: what ran there before is gone.
pub(super) async fn tell_started(tx: &mut PgConnection, host: &str) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with before as (
             select told from host_states where host = $1
         ), stored as (
             insert into host_states (host, told) values ($1, 'ready') on conflict (host) do update set told = excluded.told
         ), told as (
             select $1 as host, null as device, (select told from before) as was, 'ready' as state, 'its agent was started' as reason
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
    /// Its own agent, this start of it, is on its way out; a successor's host is not drained by it.
    Leaving(Incarnation),
}

impl Drain {
    /// Which agent the host must have; any where it is the operator who asks.
    fn of(self) -> Option<Incarnation> {
        match self {
            Self::Asked | Self::TakenBack => None,
            Self::Leaving(me) => Some(me),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Asked => "drained by the operator",
            Self::TakenBack => "undrained by the operator",
            Self::Leaving(_) => "its agent is stopping",
        }
    }
}

/// Asks a host to take no new work, or to take it again, in the caller's transaction; nothing where there is no such host. One that was told
/// to be lost stays so until its agent is back.
///
/// # Errors
/// Database errors.
pub async fn set_draining(tx: &mut PgConnection, host: &str, drain: Drain) -> Result<(), DbError> {
    let taken =
        sqlx::query("select 1 from hosts where name = $1 and ($2::text is null or incarnation = $2) for no key update")
            .bind(host)
            .bind(drain.of())
            .fetch_optional(&mut *tx)
            .await?;
    if taken.is_none() {
        return Ok(());
    }
    sqlx::query(telling!(
        "with before as (
             select h.name, s.told as was, case when s.told = 'lost' then 'lost' when $2 then 'draining' else 'ready' end as state
             from hosts h left join host_states s on s.host = h.name where h.name = $1
         ), drained as (
             update hosts h set draining = $2 from before b where h.name = b.name
         ), stored as (
             insert into host_states (host, told) select name, state from before on conflict (host) do update set told = excluded.told
         ), told as (
             select name as host, null as device, was, state, $3::text as reason from before where was is distinct from state
         )"
    ))
    .bind(host)
    .bind(drain != Drain::TakenBack)
    .bind(drain.reason())
    .execute(tx)
    .await?;
    Ok(())
}

/// A host that was told to be lost and has its lease again, by its agent, which has locked it and holds the lease.
///
/// # Errors
/// Database errors.
pub async fn tell_back(tx: &mut PgConnection, host: &str) -> Result<(), DbError> {
    // most reports are of hosts that were not away, and take no row
    let was_lost = sqlx::query(
        "select 1 from hosts h join host_states s on s.host = h.name
         where h.name = $1 and s.told = 'lost' for no key update of h",
    )
    .bind(host)
    .fetch_optional(&mut *tx)
    .await?;
    if was_lost.is_none() {
        return Ok(());
    }
    sqlx::query(telling!(
        "with stored as (
             update host_states s set told = case when h.draining then 'draining' else 'ready' end
             from hosts h where h.name = $1 and s.host = h.name
             returning s.host, s.told as state
         ), told as (
             select host, null as device, 'lost' as was, state, 'its agent has its lease again' as reason from stored
         )"
    ))
    .bind(host)
    .execute(tx)
    .await?;
    Ok(())
}

/// Hosts whose agents have no valid lease, where that was not told yet of them or of a device.
///
/// # Errors
/// Database errors.
pub async fn newly_lost(db: impl PgExecutor<'_>) -> Result<BTreeSet<String>, DbError> {
    let hosts: Vec<String> = sqlx::query_scalar(
        "select h.name from hosts h left join host_states s on s.host = h.name
         where not exists (select 1 from host_leases l where l.incarnation = h.incarnation and l.lease_until > now())
             and (s.told is distinct from 'lost' or exists (select 1 from devices d where d.host = h.name and d.state <> 'lost'))",
    )
    .fetch_all(db)
    .await?;
    Ok(hosts.into_iter().collect())
}

/// Takes the rows of these hosts, as [`tell_lost`] needs it.
///
/// # Errors
/// Database errors.
pub(super) async fn take(tx: &mut PgConnection, hosts: &BTreeSet<String>) -> Result<(), DbError> {
    sqlx::query("select 1 from hosts where name = any($1) order by name for no key update")
        .bind(hosts.iter().collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

/// The same without waiting, for who holds what others wait for: which of them it got.
///
/// # Errors
/// Database errors.
pub async fn try_take(tx: &mut PgConnection, hosts: &BTreeSet<String>) -> Result<BTreeSet<String>, DbError> {
    let got: Vec<String> =
        sqlx::query_scalar("select name from hosts where name = any($1) order by name for no key update skip locked")
            .bind(hosts.iter().collect::<Vec<_>>())
            .fetch_all(tx)
            .await?;
    Ok(got.into_iter().collect())
}

/// How it came that an agent has no valid lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unleased {
    /// It gave the lease up.
    GivenUp,
    /// Nobody said: the lease has ended, or is not there.
    Found,
}

/// Of these hosts, which the caller has locked and whose rows it has taken, those whose agents have no valid lease are lost with their devices.
/// An agent that has its lease again afterwards finds it told at its next heartbeat, and records how its devices are once it may have the lock.
///
/// # Errors
/// Database errors.
pub async fn tell_lost(db: impl PgExecutor<'_>, hosts: &BTreeSet<String>, unleased: Unleased) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with gone as (
             select h.name, s.told as was, case
                 when $2 then 'its agent has stopped'
                 when exists (select 1 from host_leases l where l.incarnation = h.incarnation) then 'the lease of its agent has expired'
                 else 'its agent has no lease' end as reason
             from hosts h left join host_states s on s.host = h.name
             where h.name = any($1)
                 and not exists (select 1 from host_leases l where l.incarnation = h.incarnation and l.lease_until > now())
         ), with_them as (
             select d.id, d.host, d.state as was, g.reason from devices d join gone g on g.name = d.host where d.state <> 'lost'
         ), hosts_stored as (
             insert into host_states (host, told) select name, 'lost' from gone where was is distinct from 'lost'
             on conflict (host) do update set told = excluded.told
         ), devices_stored as (
             update devices d set state = 'lost', reason = w.reason, updated_at = now() from with_them w where d.id = w.id
         ), told as (
             select name as host, null as device, was, 'lost' as state, reason from gone where was is distinct from 'lost'
             union all
             select host, id, was, 'lost', reason from with_them
         )"
    ))
    .bind(hosts.iter().collect::<Vec<_>>())
    .bind(unleased == Unleased::GivenUp)
    .execute(db)
    .await?;
    Ok(())
}
