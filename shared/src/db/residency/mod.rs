//! What each agent reports as resident, as the truth of last resort when Redis is gone and as the placement's input.

mod changes;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgExecutor};

use super::DbError;
use crate::ids::{ComponentId, Incarnation, JobId, ModelId};

pub use changes::{
    Departure, Report, lock, merge, remove_of_predecessors, remove_unleased, replace, try_lock, unleased_hosts,
};

/// One component in one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct ResidencyRow {
    /// Host.
    pub host: String,
    /// Device id, or `""` for the RAM tier.
    pub device: String,
    /// Component.
    pub component_id: ComponentId,
    /// `ram` or `vram`.
    pub tier: String,
    /// `loading`, `ready`, `evicting`, `failed`.
    pub state: String,
    /// Bytes held.
    pub bytes: i64,
    /// Leases held.
    pub leases: i32,
    /// The operator's "keep".
    pub protected: bool,
    /// The agent that reported it.
    pub incarnation: Incarnation,
    /// Since when.
    pub since: DateTime<Utc>,
    /// On a device: the models that were loaded there and need it.
    pub models: Vec<ModelId>,
    /// The job that brought it, where its agent knows: told with the event, not kept in the row.
    #[sqlx(skip)]
    pub job: Option<JobId>,
}

/// Everything resident, of agents whose lease is valid.
///
/// # Errors
/// Database errors.
pub async fn list(db: impl PgExecutor<'_>) -> Result<Vec<ResidencyRow>, DbError> {
    Ok(sqlx::query_as(
        "select r.* from residency r join host_leases l on l.incarnation = r.incarnation and l.lease_until > now()
         order by r.component_id, r.host, r.device",
    )
    .fetch_all(db)
    .await?)
}

/// Residency of the components of one model, of agents whose lease is valid.
///
/// # Errors
/// Database errors.
pub async fn of_model(db: impl PgExecutor<'_>, model: ModelId) -> Result<Vec<ResidencyRow>, DbError> {
    Ok(sqlx::query_as(
        "select r.* from residency r join model_components c on c.component_id = r.component_id
         join host_leases l on l.incarnation = r.incarnation and l.lease_until > now()
         where c.model_id = $1 order by c.kind, r.host, r.device",
    )
    .bind(model)
    .fetch_all(db)
    .await?)
}

/// Residency of some components, of agents whose lease is valid: what a placement looks at.
///
/// # Errors
/// Database errors.
pub async fn of_components(db: impl PgExecutor<'_>, components: &[ComponentId]) -> Result<Vec<ResidencyRow>, DbError> {
    Ok(sqlx::query_as(
        "select r.* from residency r join host_leases l on l.incarnation = r.incarnation and l.lease_until > now()
         where r.component_id = any($1)",
    )
    .bind(components)
    .fetch_all(db)
    .await?)
}

/// What one tier of one host or device holds in all.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct TierTotal {
    /// Host.
    pub host: String,
    /// Device id, or `""` for the RAM tier.
    pub device: String,
    /// Bytes of every component in it.
    pub bytes: i64,
    /// Bytes that cannot be evicted now: leased or protected.
    pub held_bytes: i64,
}

/// Totals per tier, of agents whose lease is valid.
///
/// # Errors
/// Database errors.
pub async fn totals(db: impl PgExecutor<'_>) -> Result<Vec<TierTotal>, DbError> {
    Ok(sqlx::query_as(
        "select r.host, r.device, sum(r.bytes)::bigint as bytes,
                coalesce(sum(r.bytes) filter (where r.leases > 0 or r.protected), 0)::bigint as held_bytes
         from residency r join host_leases l on l.incarnation = r.incarnation and l.lease_until > now()
         group by r.host, r.device",
    )
    .fetch_all(db)
    .await?)
}
