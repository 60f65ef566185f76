//! The claim: one statement takes the best placed job of a lane, counts the attempt and the possible crash, and opens the attempt.

use serde_json::Value;
use sqlx::{FromRow, PgExecutor};

use crate::{
    db::DbError,
    ids::{Incarnation, JobId},
};

/// Whose slot is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimLane {
    /// A slot of a device.
    Device {
        /// Host of the device.
        host: String,
        /// `<host>/<name>`.
        device: String,
    },
    /// A slot of a host.
    Host {
        /// The host.
        host: String,
    },
}

/// A job that this process now owns under `fence`.
#[derive(Debug, Clone, FromRow)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// Kind as stored; decoded by the handler, so that an unreadable row fails its job and not the queue.
    pub kind: String,
    /// Arguments as stored.
    pub args: Value,
    /// Version of the arguments.
    pub args_version: i32,
    /// Lease epoch.
    pub fence: i64,
    /// Attempt, from 1.
    pub attempt: i32,
    /// Device for jobs of the device lane.
    pub device: Option<String>,
    /// Trace context of the request.
    pub traceparent: Option<String>,
    /// Milliseconds from enqueue to this claim, by the database's clock.
    pub waited_ms: f64,
}

// No hint in here: it would make claims commit one after the other (see `db::tell`); whoever claims tells afterwards.
// The best job is a subquery and not a join: it is then looked up by its key, whatever the statistics say.
// Literal limits keep the planner on the partial indexes. The lease check makes a claim by a process that
// already lost its lease impossible.
macro_rules! claim_sql {
    ($filter:literal) => {
        concat!(
            "with taken as (
                update jobs j set state = 'running', incarnation = $3, attempt = j.attempt + 1, crash_count = j.crash_count + 1,
                    claimed_at = now(), started_at = coalesce(j.started_at, now()), lost_at = null, error = null
                where j.id = (select id from jobs where state = 'placed' and ",
            $filter,
            " order by priority desc, id limit 1 for update skip locked)
                    and exists (select 1 from host_leases l where l.incarnation = $3 and l.lease_until > now())
                returning j.*
            ), opened as (
                insert into job_attempts (job_id, fence, attempt, host, device, incarnation)
                select id, fence, attempt, host, device, incarnation from taken
            ), logged as (
                insert into job_events (job_id, type, data)
                select id, 'started', jsonb_build_object('attempt', attempt, 'host', host, 'device', device, 'fence', fence) from taken
            )
            select id, kind, args, args_version, fence, attempt, device, traceparent,
                   extract(epoch from now() - created_at)::float8 * 1000 as waited_ms
            from taken"
        )
    };
}

/// Claims one job, if one is placed on this lane.
///
/// # Errors
/// Database errors.
pub async fn claim(db: impl PgExecutor<'_>, lane: &ClaimLane, me: Incarnation) -> Result<Option<Claimed>, DbError> {
    let query = match lane {
        ClaimLane::Device { host, device } => {
            sqlx::query_as(claim_sql!("lane = 'device' and device = $2 and host = $1")).bind(host).bind(device)
        }
        ClaimLane::Host { host } => sqlx::query_as(claim_sql!("lane = 'host' and host = $1 and ($2::text is null)"))
            .bind(host)
            .bind(None::<String>),
    };
    Ok(query.bind(me).fetch_optional(db).await?)
}
