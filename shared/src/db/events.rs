//! The farm's events in one order: of jobs, of what becomes resident or leaves, and of hosts and devices. They share one sequence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{DbError, leader, seconds};
use crate::ids::JobId;

macro_rules! prune {
    ($table:literal) => {
        concat!(
            "with oldest as (select seq, at from ",
            $table,
            " order by seq limit $2)
             delete from ",
            $table,
            " e using oldest o where e.seq = o.seq and o.at < now() - make_interval(secs => $1)"
        )
    };
}

/// What to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topics {
    /// Jobs.
    pub jobs: bool,
    /// What becomes resident or leaves.
    pub residency: bool,
    /// Devices that leave service or come back.
    pub devices: bool,
    /// Hosts that come, drain or are lost.
    pub hosts: bool,
}

/// One event: of a job, or of a host.
#[derive(Debug, Clone, FromRow)]
pub struct FarmEventRow {
    /// Grows with time; unique over all events.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `enqueued`, `placed`, …; `residency.resident`, `residency.gone`; `device.` or `host.` with the state.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// Details.
    pub data: Value,
    /// The job.
    pub job_id: Option<JobId>,
    /// The host.
    pub host: Option<String>,
    /// The device; none for RAM, and for a host itself.
    pub device: Option<String>,
}

/// Events after `seq` up to `settled`, oldest first.
///
/// # Errors
/// Database errors.
pub async fn after(
    db: impl PgExecutor<'_>,
    topics: Topics,
    (seq, settled): (i64, i64),
    limit: i64,
) -> Result<Vec<FarmEventRow>, DbError> {
    Ok(sqlx::query_as(
        "with next as (
             (select seq, at, type, data, job_id, null as host, null as device
              from job_events where $4 and seq > $1 and seq <= $2 order by seq limit $3)
             union all
             (select seq, at, type, data, null, host, device
              from residency_events where $5 and seq > $1 and seq <= $2 order by seq limit $3)
             union all
             (select seq, at, type, data, null, host, device
              from host_events where ($6 or $7) and case when device is null then $7 else $6 end and seq > $1 and seq <= $2 order by seq limit $3)
         )
         select * from next order by seq limit $3",
    )
    .bind(seq)
    .bind(settled)
    .bind(limit)
    .bind(topics.jobs)
    .bind(topics.residency)
    .bind(topics.devices)
    .bind(topics.hosts)
    .fetch_all(db)
    .await?)
}

/// How far the events are settled: a transaction may commit lower numbers after another has committed higher ones, and whoever went on from
/// the higher ones would never see them.
///
/// Whoever writes events has the lock of their table from before the first number is taken to the end of the transaction. So once all who
/// had it after an event was seen have ended, no lower one can come. No clock is asked, and neither how long transactions take.
#[derive(Debug, Default)]
pub struct Horizon {
    settled: Option<i64>,
    /// Up to there it is settled when these transactions have ended.
    waits: Option<(i64, Vec<String>)>,
}

impl Horizon {
    /// The newest event below which no other can come; none before all have ended who wrote at the first look.
    pub fn settled(&self) -> Option<i64> {
        self.settled
    }

    /// Where a stream without history starts: the newest settled event, and before anything is settled the newest that the first look saw.
    /// None before that look.
    pub fn start(&self) -> Option<i64> {
        self.settled.or(self.waits.as_ref().map(|(seq, _)| *seq))
    }

    /// Somebody who wrote is still waited for.
    pub fn waits(&self) -> bool {
        self.waits.is_some()
    }

    /// Looks again.
    ///
    /// # Errors
    /// Database errors.
    pub async fn advance(&mut self, conn: &mut PgConnection) -> Result<(), DbError> {
        let newest: i64 = sqlx::query_scalar(
            "select greatest((select max(seq) from job_events), (select max(seq) from residency_events),
                             (select max(seq) from host_events), 0)",
        )
        .fetch_one(&mut *conn)
        .await?;
        // a statement of its own, after that one: the other way round a writer could begin between them
        let writing = sqlx::query_scalar(
            "select distinct virtualtransaction from pg_locks
             where locktype = 'relation' and granted and mode = 'RowExclusiveLock'
                 and relation in ('job_events'::regclass, 'residency_events'::regclass, 'host_events'::regclass)
                 and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_all(conn)
        .await?;
        self.saw(newest, writing);
        Ok(())
    }

    fn saw(&mut self, newest: i64, writing: Vec<String>) {
        let ended = |(_, waited): &mut (i64, Vec<String>)| !waited.iter().any(|one| writing.contains(one));
        if let Some((seq, _)) = self.waits.take_if(ended) {
            self.settle(seq);
        }
        if writing.is_empty() {
            self.settle(newest);
        } else if self.waits.is_none() && self.settled.is_none_or(|settled| settled < newest) {
            self.waits = Some((newest, writing));
        }
    }

    /// It never goes back: old events are dropped, the newest one with them on a farm where nothing happens.
    fn settle(&mut self, seq: i64) {
        self.settled = self.settled.max(Some(seq));
    }
}

/// Drops events of residency, and of hosts and devices, that are older than `keep`, looking at the `limit` oldest of each. `None` when the
/// term is over.
///
/// # Errors
/// Database errors.
pub async fn prune(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    keep: Duration,
    limit: i64,
) -> Result<Option<u64>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    let mut gone = 0;
    for statement in [prune!("residency_events"), prune!("host_events")] {
        gone += sqlx::query(statement).bind(seconds(keep)).bind(limit).execute(&mut *tx).await?.rows_affected();
    }
    Ok(Some(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_waits_for_all_who_wrote_when_it_was_seen_and_for_nobody_later() {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut horizon = Horizon::default();
        horizon.saw(4, all(&[]));
        assert_eq!((horizon.settled(), horizon.waits()), (Some(4), false));
        horizon.saw(6, all(&["1/1", "2/1"]));
        horizon.saw(9, all(&["2/1", "3/1"]));
        assert_eq!((horizon.settled(), horizon.waits()), (Some(4), true), "5 may come yet");
        horizon.saw(9, all(&["3/1", "1/2"]));
        assert_eq!((horizon.settled(), horizon.waits()), (Some(6), true), "7 may come from the third");
        horizon.saw(9, all(&["2/2"]));
        assert_eq!(horizon.settled(), Some(9), "all of those have ended");
        horizon.saw(0, all(&[]));
        assert_eq!((horizon.settled(), horizon.waits()), (Some(9), false), "old ones were dropped");
    }

    #[test]
    fn a_stream_starts_at_the_first_look_also_where_somebody_wrote() {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut horizon = Horizon::default();
        assert_eq!((horizon.start(), horizon.settled()), (None, None));
        horizon.saw(4, all(&["1/1"]));
        horizon.saw(7, all(&["1/1", "2/1"]));
        assert_eq!((horizon.start(), horizon.settled()), (Some(4), None), "5 to 7 came after the first look");
        horizon.saw(8, all(&[]));
        assert_eq!((horizon.start(), horizon.settled()), (Some(8), Some(8)));
    }
}
