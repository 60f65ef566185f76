//! Taking jobs back from workers that are gone. Only the leader calls it, under its term, and never within one TTL of
//! winning leadership or regaining the database: workers must have had the chance to renew.

use sqlx::{FromRow, PgConnection};

use super::settle;
use crate::{
    db::{
        DbError,
        farm::{self, notify},
        leader, listen, residency,
    },
    ids::JobId,
    job::{JobState, rules},
};

/// What one pass took back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Running jobs whose worker's lease had expired, with their next state.
    pub lost: Vec<(JobId, JobState)>,
    /// Placed jobs given back because their host has no live agent, or their device no runner: nobody would claim them.
    pub unplaced: Vec<JobId>,
}

#[derive(FromRow)]
struct LostRow {
    id: JobId,
    #[sqlx(flatten)]
    counters: settle::CounterRow,
}

/// One pass. `None` when the term is over.
///
/// # Errors
/// Database errors.
pub async fn reap(tx: &mut PgConnection, (role, term): (&str, i64), jitter: f64) -> Result<Option<Reaped>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    let mut reaped = Reaped::default();
    let lost: Vec<LostRow> = sqlx::query_as(
        "select j.id, j.attempt, j.max_attempts, j.crash_count, j.max_crashes, j.cancel_requested_at is not null as cancel_requested
         from jobs j where j.state = 'running' and j.lane <> 'fanout'
             and not exists (select 1 from host_leases l where l.incarnation = j.incarnation and l.lease_until > now())
         order by j.id limit 500 for update of j skip locked",
    )
    .fetch_all(&mut *tx)
    .await?;
    for row in lost {
        let settled = rules::settle_lost_lease(row.counters.into(), jitter);
        settle::apply(tx, row.id, &settled, None).await?;
        reaped.lost.push((row.id, settled.state));
    }
    reaped.unplaced = sqlx::query_scalar(
        "with back as (
             update jobs j set state = 'pending', host = null, device = null, placed_at = null
             where ((j.state = 'placed' and j.lane = 'device') or (j.state = 'placed' and j.lane = 'host')) and not exists (
                 select 1 from hosts h join host_leases l on l.incarnation = h.incarnation
                 where h.name = j.host and l.lease_until > now() and not h.draining
                     and (j.lane = 'host' or exists (
                         select 1 from devices d where d.id = j.device and d.state <> 'lost')))
             returning id
         ), logged as (
             insert into job_events (job_id, type) select id, 'unplaced' from back
         ) select id from back",
    )
    .fetch_all(&mut *tx)
    .await?;
    // leases that ended long ago belong to nobody
    sqlx::query("delete from host_leases where lease_until < now() - interval '1 day'").execute(&mut *tx).await?;
    let mut unleased = residency::unleased_hosts(tx).await?;
    unleased.append(&mut farm::newly_lost(&mut *tx).await?);
    // not waited for: the leader's row is in hand, and whoever writes for one of them may take long. The next pass has the rest.
    let locked = residency::try_lock(tx, &unleased).await?;
    let ours = farm::try_take(tx, &locked).await?;
    if !ours.is_empty() {
        // first: an agent that renews its lease between the two learns that it was lost, and reports anew
        farm::tell_lost(&mut *tx, &ours, farm::Unleased::Found).await?;
        residency::remove_unleased(tx, &ours).await?;
    }
    if !reaped.lost.is_empty() || !reaped.unplaced.is_empty() {
        notify(tx, listen::SCHEDULE, "").await?;
    }
    Ok(Some(reaped))
}
