//! Schedules: what is due becomes jobs in the transaction that moves it to its next time, so a second leader fires nothing twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::{
    db::{DbError, Pool, Session, farm, schedules},
    job::{JobSpec, Lane, NewJob, ScanArgs, Target, enqueue, enqueue::enqueue_all},
};

use super::Control;
use crate::metrics::ROLE;

/// The schedule that keeps the catalogue up to date.
const SCAN: &str = "scan";

/// What a schedule enqueues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Template {
    /// The work.
    pub(crate) spec: JobSpec,
    /// Where.
    pub(crate) target: Target,
}

/// Creates, changes or (period 0) removes the schedule that scans all hosts.
///
/// # Errors
/// Database errors.
pub(crate) async fn ensure_scan(pool: &Pool, every: Duration) -> Result<(), DbError> {
    if every.is_zero() {
        schedules::remove(pool, SCAN).await?;
        return Ok(());
    }
    let template = Template { spec: JobSpec::Scan(ScanArgs::default()), target: Target::All };
    let template = serde_json::to_value(template).map_err(|error| DbError::BadRow(error.to_string()))?;
    // whole seconds, at least one
    let every_seconds = i64::try_from(every.as_secs().max(1)).unwrap_or(i64::MAX);
    schedules::ensure(pool, SCAN, &template, every_seconds).await
}

/// Enqueues what is due. A schedule whose last job still runs joins it instead (one active job per key).
///
/// # Errors
/// Database errors.
pub(crate) async fn fire(control: &Control) -> Result<(), DbError> {
    let Some(lead) = control.leadership.current() else { return Ok(()) };
    let mut tx = control.pool.begin().await?;
    let Some(due) = schedules::take_due(&mut tx, (ROLE, lead.term)).await? else { return Ok(()) };
    for (name, template) in due {
        match serde_json::from_value::<Template>(template) {
            Ok(template) => fire_one(&mut tx, &name, template).await?,
            Err(error) => {
                tracing::error!(schedule = name, %error, "cannot read the template; fix or remove the schedule")
            }
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn fire_one(tx: &mut Session, name: &str, template: Template) -> Result<(), DbError> {
    let lane = template.spec.lane();
    let job = NewJob::new(template.spec, template.target.clone());
    let enqueued = if template.target == Target::All {
        let targets = all_places(tx, lane).await?;
        if targets.is_empty() {
            tracing::debug!(schedule = name, "due, but no live host has a place for it");
            return Ok(());
        }
        enqueue_all(tx, job, targets).await?
    } else {
        enqueue(tx, job).await?
    };
    if enqueued.created {
        tracing::info!(schedule = name, job.id = %enqueued.id, "fired");
    } else {
        tracing::info!(schedule = name, job.id = %enqueued.id, "due, but its last job has not ended");
    }
    Ok(())
}

/// One target for each live host (for scans: with a root), or for each ready device of one.
async fn all_places(tx: &mut Session, lane: Lane) -> Result<Vec<Target>, DbError> {
    let hosts = farm::list_hosts(&mut *tx).await?;
    let live = |name: &str| hosts.iter().any(|host| host.name == name && host.alive && !host.draining);
    if lane == Lane::Device {
        let devices = farm::list_devices(&mut *tx).await?;
        let ready = devices.into_iter().filter(|device| device.state == "ready" && live(&device.host));
        return Ok(ready.map(|device| Target::Device(device.id)).collect());
    }
    let mut rooted: Vec<String> = farm::list_roots(&mut *tx).await?.into_iter().map(|root| root.host).collect();
    rooted.dedup();
    Ok(rooted.into_iter().filter(|host| live(host)).map(Target::Host).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_round_trip_and_unknown_fields_are_refused() {
        let template = Template { spec: JobSpec::Scan(ScanArgs::default()), target: Target::All };
        let stored = serde_json::to_value(&template).unwrap();
        assert_eq!(serde_json::from_value::<Template>(stored).unwrap(), template);
        assert!(
            serde_json::from_value::<Template>(serde_json::json!({"spec": {"kind": "scan", "args": {}}, "where": 1}))
                .is_err()
        );
    }
}
