//! Writes of what is resident: each statement that changes the rows writes the events that tell of it, so that neither is ever there
//! without the other. Of one host they are made one after the other.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};

use super::ResidencyRow;
use crate::{
    db::DbError,
    ids::{ComponentId, Incarnation, JobId},
};

/// Why a component leaves, said by its agent before its row goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Departure {
    /// Device id, or `""` for the RAM tier.
    pub device: String,
    /// The component, by the id that it was held under.
    pub component_id: ComponentId,
    /// `room`, `pressure`, `expired`, `requested`, `cleared`, `duplicate`, `superseded`, `optimized`.
    pub reason: String,
    /// The component that needed room.
    pub wanted: Option<String>,
    /// The job that asked for it.
    pub job: Option<JobId>,
    /// When, by the agent's clock: it is about a copy that was there by then.
    pub at: DateTime<Utc>,
}

/// `$ctes` end with `told`: what became resident or left, with all that its event says. Names of models are bounded: a VAE may be in
/// hundreds of them.
macro_rules! telling {
    ($ctes:literal) => {
        concat!(
            $ctes,
            " insert into residency_events (type, host, device, data)
              select e.type, e.host, nullif(e.device, ''), jsonb_strip_nulls(jsonb_build_object(
                  'tier', e.tier, 'component', e.component_id, 'bytes', e.bytes, 'reason', e.reason, 'wanted', e.wanted,
                  'merged_into', e.merged_into, 'job', e.job,
                  'kind', (select c.kind from components c where c.id = e.component_id),
                  'models', array(
                      select m.name from model_components l join models m on m.id = l.model_id
                      where l.component_id = coalesce(e.merged_into, e.component_id) order by m.name limit 8)))
              from told e order by e.moment, e.type, e.device, e.component_id"
        )
    };
}

/// One writer of a host's rows at a time, to the end of the transaction: what a statement finds there is what it changes.
///
/// # Errors
/// Database errors.
pub async fn lock(tx: &mut PgConnection, hosts: &BTreeSet<String>) -> Result<(), DbError> {
    // in one order everywhere
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended('residency/' || host, 0)) from unnest($1::text[]) as u (host)",
    )
    .bind(hosts.iter().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// What an agent tells.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All that is resident on its host.
    pub rows: Vec<ResidencyRow>,
    /// Why what is not there any more left, as far as that was not told before.
    pub departures: Vec<Departure>,
}

/// Replaces what a host reports, in the caller's transaction, by what `look` says once nobody else writes for this host: a picture that was
/// taken before would undo a later one. Gives it back; none for an agent that has no lease or a successor, whose report is refused.
/// What was there and is not any more left for the newest reason that is said for it, or was lost.
///
/// # Errors
/// Database errors.
pub async fn replace(
    tx: &mut PgConnection,
    host: &str,
    me: Incarnation,
    look: impl FnOnce() -> Report,
) -> Result<Option<Report>, DbError> {
    lock(tx, &BTreeSet::from([host.to_owned()])).await?;
    let lease: Option<String> = sqlx::query_scalar(
        "select l.host from host_leases l join hosts h on h.name = l.host and h.incarnation = l.incarnation
             where l.incarnation = $1 and l.lease_until > now() for share of l",
    )
    .bind(me)
    .fetch_optional(&mut *tx)
    .await?;
    if lease.is_none() {
        return Ok(None);
    }
    let report = look();
    // a component that left the catalogue is not reported any more; a merged one counts as the row it was merged into. A copy that is
    // younger than the row's is another one, unless the row stood for two and one was given back.
    sqlx::query(telling!(
        "with reported as (
             select distinct on (r.device, component_id) r.device, coalesce(c.merged_into, c.id) as component_id, r.tier, r.state, r.bytes,
                    r.leases, r.protected, r.since, r.models, r.job
             from jsonb_to_recordset($3) as r (device text, component_id text, tier text, state text, bytes bigint, leases integer,
                                               protected boolean, since timestamptz, models text[], job text)
             join components c on c.id = r.component_id
             order by r.device, component_id, r.state <> 'ready', r.since
         ), departed as (
             select distinct on (d.device, component_id) d.device, coalesce(c.merged_into, c.id) as component_id, d.reason, d.wanted,
                    d.job, d.at
             from jsonb_to_recordset($4) as d (device text, component_id text, reason text, wanted text, job text, at timestamptz)
             join components c on c.id = d.component_id
             order by d.device, component_id, d.at desc
         ), before as (
             select * from residency where host = $1
         ), gone as (
             delete from residency r where r.host = $1
                 and not exists (select 1 from reported n where n.device = r.device and n.component_id = r.component_id)
         ), stored as (
             insert into residency (host, device, component_id, tier, state, bytes, leases, protected, incarnation, since, models)
             select $1, n.device, n.component_id, n.tier, n.state, n.bytes, n.leases, n.protected, $2, n.since, n.models
             from reported n left join before b on b.device = n.device and b.component_id = n.component_id
             where (n.tier, n.state, n.bytes, n.leases, n.protected, $2, n.since, n.models) is distinct from
                 (b.tier, b.state, b.bytes, b.leases, b.protected, b.incarnation, b.since, b.models)
             on conflict (host, device, component_id) do update set
                 tier = excluded.tier, state = excluded.state, bytes = excluded.bytes, leases = excluded.leases,
                 protected = excluded.protected, incarnation = excluded.incarnation, since = excluded.since, models = excluded.models
         ), compared as (
             select coalesce(b.device, n.device) as device, coalesce(b.component_id, n.component_id) as component_id,
                    b.tier as tier_before, b.bytes as bytes_before, b.since as since_before, c.merged_into,
                    d.reason, d.wanted, d.job as asked_by, d.at as left_at, n.tier, n.bytes, n.since, n.job,
                    coalesce(b.state in ('ready', 'evicting'), false) as was,
                    coalesce(n.state in ('ready', 'evicting'), false) as is_now,
                    coalesce(n.since > b.since and d.reason is distinct from 'duplicate', false) as anew
             from before b
             full join reported n on n.device = b.device and n.component_id = b.component_id
             left join departed d on d.device = b.device and d.component_id = b.component_id
                 and d.at >= b.since - interval '1 millisecond'
             left join components c on c.id = b.component_id
         ), told as (
             select 'residency.gone' as type, $1 as host, device, component_id, tier_before as tier, bytes_before as bytes,
                    coalesce(reason, case when merged_into is null then 'lost' else 'merged' end) as reason, wanted, merged_into,
                    asked_by as job, coalesce(left_at, since_before) as moment
             from compared where was and (anew or not is_now)
             union all
             select 'residency.resident', $1, device, component_id, tier, bytes, null, null, null, job, since
             from compared where is_now and (anew or not was)
         )"
    ))
    .bind(host)
    .bind(me)
    .bind(Json(&report.rows))
    .bind(Json(&report.departures))
    .execute(tx)
    .await?;
    Ok(Some(report))
}

/// The same without waiting, for who holds what others wait for: of which hosts it got the lock.
///
/// # Errors
/// Database errors.
pub async fn try_lock(tx: &mut PgConnection, hosts: &BTreeSet<String>) -> Result<BTreeSet<String>, DbError> {
    let got: Vec<(String, bool)> = sqlx::query_as(
        "select host, pg_try_advisory_xact_lock(hashtextextended('residency/' || host, 0)) from unnest($1::text[]) as u (host)",
    )
    .bind(hosts.iter().collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    Ok(got.into_iter().filter_map(|(host, got)| got.then_some(host)).collect())
}

/// Hosts with rows of agents that have no valid lease.
///
/// # Errors
/// Database errors.
pub async fn unleased_hosts(tx: &mut PgConnection) -> Result<BTreeSet<String>, DbError> {
    let hosts: Vec<String> = sqlx::query_scalar(
        "select distinct r.host from residency r where not exists (
             select 1 from host_leases l where l.incarnation = r.incarnation and l.lease_until > now())",
    )
    .fetch_all(tx)
    .await?;
    Ok(hosts.into_iter().collect())
}

/// Removes the rows of these hosts, which the caller has locked, whose agents have no valid lease: what they held is lost.
///
/// # Errors
/// Database errors.
pub async fn remove_unleased(tx: &mut PgConnection, hosts: &BTreeSet<String>) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with gone as (
             delete from residency r where r.host = any($1) and not exists (
                 select 1 from host_leases l where l.incarnation = r.incarnation and l.lease_until > now())
             returning *
         ), told as (
             select 'residency.gone' as type, host, device, component_id, tier, bytes, 'lost' as reason, null as wanted,
                    null as merged_into, null as job, since as moment
             from gone where state in ('ready', 'evicting')
         )"
    ))
    .bind(hosts.iter().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes what the agents before this one held on its host, which the caller has locked: it went with them.
///
/// # Errors
/// Database errors.
pub async fn remove_of_predecessors(tx: &mut PgConnection, host: &str, me: Incarnation) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with gone as (
             delete from residency where host = $1 and incarnation <> $2 returning *
         ), told as (
             select 'residency.gone' as type, host, device, component_id, tier, bytes, 'lost' as reason, null as wanted,
                    null as merged_into, null as job, since as moment
             from gone where state in ('ready', 'evicting')
         )"
    ))
    .bind(host)
    .bind(me)
    .execute(tx)
    .await?;
    Ok(())
}

/// What is resident as these components is so as their survivors from now on, which they were merged into. This host is locked and those
/// where one of them is resident, all at once, so that nobody waits for one host with another in hand. Where one comes meanwhile, the
/// host's next report says so.
///
/// # Errors
/// Database errors.
pub async fn merge(tx: &mut PgConnection, host: &str, merged: &[(ComponentId, ComponentId)]) -> Result<(), DbError> {
    if merged.is_empty() {
        return Ok(());
    }
    let hosts: Vec<String> = sqlx::query_scalar("select distinct host from residency where component_id = any($1)")
        .bind(merged.iter().map(|(component, _)| *component).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    let hosts = hosts.into_iter().chain([host.to_owned()]).collect();
    lock(tx, &hosts).await?;
    for one in merged {
        merge_one(tx, &hosts, *one).await?;
    }
    Ok(())
}

async fn merge_one(
    tx: &mut PgConnection,
    hosts: &BTreeSet<String>,
    (component, survivor): (ComponentId, ComponentId),
) -> Result<(), DbError> {
    sqlx::query(telling!(
        "with gone as (
             delete from residency where component_id = $1 and host = any($3) returning *
         ), moved as (
             insert into residency select host, device, $2, tier, state, bytes, leases, protected, incarnation, since, models from gone
             on conflict do nothing returning *
         ), told as (
             select 'residency.gone' as type, host, device, component_id, tier, bytes, 'merged' as reason, null as wanted,
                    $2 as merged_into, null as job, since as moment
             from gone where state in ('ready', 'evicting')
             union all
             select 'residency.resident', host, device, component_id, tier, bytes, null, null, null, null, since
             from moved where state in ('ready', 'evicting')
         )"
    ))
    .bind(component)
    .bind(survivor)
    .bind(hosts.iter().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
