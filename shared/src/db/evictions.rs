//! What the tiers of hosts took out and why, kept for those who ask later.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::DbError;
use crate::ids::{ComponentId, Incarnation};

/// Decisions kept of one host.
const KEPT: i64 = 1000;

/// A decision to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEviction {
    /// Counts the decisions of the agent.
    pub seq: i64,
    /// How long ago it was made.
    pub ago_seconds: f64,
    /// `room`, `pressure`, `expired`, `requested`, `cleared`, `duplicate`, `superseded`, `optimized`.
    pub reason: &'static str,
    /// The policy that chose, where one did.
    pub policy: Option<&'static str>,
    /// The component that needed room.
    pub wanted: Option<String>,
    /// Its bytes.
    pub wanted_bytes: i64,
    /// Bytes that had to go.
    pub need_bytes: i64,
    /// Bytes that came back.
    pub freed_bytes: i64,
    /// The components that went.
    pub victims: Vec<String>,
    /// `[EvictionCandidate]`, bounded.
    pub candidates: Value,
    /// Candidates left out of it.
    pub omitted: i64,
}

/// A stored decision.
#[derive(Debug, Clone, FromRow)]
pub struct EvictionRow {
    /// Host.
    pub host: String,
    /// The device whose memory it was; empty for RAM.
    pub device: String,
    /// The agent.
    pub incarnation: Incarnation,
    /// Counts the decisions of the agent.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
    /// The policy that chose, where one did.
    pub policy: Option<String>,
    /// The component that needed room.
    pub wanted: Option<String>,
    /// Its bytes.
    pub wanted_bytes: i64,
    /// Bytes that had to go.
    pub need_bytes: i64,
    /// Bytes that came back.
    pub freed_bytes: i64,
    /// `[EvictionCandidate]`.
    pub candidates: Value,
    /// Candidates left out of it.
    pub omitted: i64,
}

/// Stores decisions about one tier of an agent (a device, or `""` for RAM) in the caller's transaction, those that are not there yet, and drops the oldest of the
/// host beyond what is kept. The database's clock says when they were.
///
/// # Errors
/// Database errors.
pub async fn record(
    tx: &mut PgConnection,
    (host, device): (&str, &str),
    me: Incarnation,
    decisions: &[NewEviction],
) -> Result<(), DbError> {
    for one in decisions {
        sqlx::query(
            "insert into cache_evictions (host, incarnation, seq, at, reason, policy, wanted, wanted_bytes, need_bytes,
                                          freed_bytes, victims, candidates, omitted, device)
             values ($1, $2, $3, now() - make_interval(secs => $4), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             on conflict do nothing",
        )
        .bind(host)
        .bind(me)
        .bind(one.seq)
        .bind(one.ago_seconds)
        .bind(one.reason)
        .bind(one.policy)
        .bind(&one.wanted)
        .bind(one.wanted_bytes)
        .bind(one.need_bytes)
        .bind(one.freed_bytes)
        .bind(&one.victims)
        .bind(&one.candidates)
        .bind(one.omitted)
        .bind(device)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query(
        "delete from cache_evictions e using (
             select incarnation, device, seq from cache_evictions where host = $1 order by at desc, seq desc offset $2) old
         where e.host = $1 and e.incarnation = old.incarnation and e.device = old.device and e.seq = old.seq",
    )
    .bind(host)
    .bind(KEPT)
    .execute(tx)
    .await?;
    Ok(())
}

/// Which decisions to list; absent means any.
#[derive(Debug, Clone, Copy, Default)]
pub struct EvictionFilter<'f> {
    /// Of this host.
    pub host: Option<&'f str>,
    /// Of this device.
    pub device: Option<&'f str>,
    /// Of devices, or (false) of RAM.
    pub of_devices: Option<bool>,
    /// Those that took out this component, also while it had another id.
    pub component: Option<ComponentId>,
}

/// Decisions, the newest first.
///
/// # Errors
/// Database errors.
pub async fn list(
    db: impl PgExecutor<'_>,
    filter: EvictionFilter<'_>,
    limit: i64,
) -> Result<Vec<EvictionRow>, DbError> {
    Ok(sqlx::query_as(
        "select host, device, incarnation, seq, at, reason, policy, wanted, wanted_bytes, need_bytes, freed_bytes, candidates, omitted
         from cache_evictions
         where ($1::text is null or host = $1) and ($4::text is null or device = $4)
           and ($5::bool is null or $5 = (device <> ''))
           and ($2::text is null
                or victims && array(select id from components where merged_into = $2 union select $2))
         order by at desc, host, seq desc limit $3",
    )
    .bind(filter.host)
    .bind(filter.component.map(|id| id.to_string()))
    .bind(limit)
    .bind(filter.device)
    .bind(filter.of_devices)
    .fetch_all(db)
    .await?)
}
