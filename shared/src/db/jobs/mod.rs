//! The fenced job table. One file per way a row changes:
//! insert → place → claim → settle (and its parent's), with cancel and reap beside them; `read` changes nothing.

mod archive;
mod cancel;
mod claim;
mod events;
mod insert;
mod parent;
mod place;
mod place_many;
mod progress;
mod read;
mod reap;
mod report;
mod settle;
mod waiting;

pub use archive::{archive, prune_events};
pub use cancel::{CancelOutcome, cancel, lock_all};
pub use claim::{ClaimLane, Claimed, claim};
pub use events::{EventRow, events_after};
pub use insert::insert;
pub use parent::settle_parent;
pub use place::{PendingRow, Unplaced, fail_unplaceable, pending, place, set_reason};
pub use place_many::{PendingCursor, Placement, pending_after, place_many, set_reasons};
pub use progress::{ProgressRow, progress_of, progress_of_each, write_progress};
pub use read::{
    AttemptRow, JobFilter, JobRow, active_for_model, active_for_models, active_needs, active_that_need, attempts,
    counts, find, find_each, list, load_by_place, loads_underway_or_recent,
};
pub use reap::{Reaped, reap};
pub use report::report;
pub use settle::{Settlement, hold, settle};
pub use waiting::scan_waits;

use sqlx::PgConnection;

use super::{DbError, farm::notify, listen};
use crate::ids::{Incarnation, JobId};

/// The right to write a running job: all three must match the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobLease {
    /// The job.
    pub id: JobId,
    /// Its lease epoch.
    pub fence: i64,
    /// The process that claimed it.
    pub incarnation: Incarnation,
}

pub(super) async fn event(
    tx: &mut PgConnection,
    id: JobId,
    kind: &str,
    data: serde_json::Value,
) -> Result<(), DbError> {
    sqlx::query("insert into job_events (job_id, type, data) values ($1, $2, $3)")
        .bind(id)
        .bind(kind)
        .bind(data)
        .execute(&mut *tx)
        .await?;
    notify(tx, listen::JOB, &id.to_string()).await
}
