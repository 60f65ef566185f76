//! The one transaction that ends an attempt: the fenced settle together with what the work changed in the catalogue.

use shared::db::Session;
use shared::{
    db::{
        DbError,
        jobs::{self, JobLease, Settlement},
        models::{self, FoundModel, Registered},
        residency,
    },
    error::{ErrorBody, ErrorCode},
    ids::ComponentId,
    job::rules::{self, Report},
};

use crate::{context::Agent, publisher};

/// What an attempt changes beside its job's row.
#[derive(Debug)]
pub enum Effects {
    /// Nothing.
    None,
    /// The catalogue of these roots: what each holds, or why it cannot be read.
    Scanned(Vec<(String, Result<Vec<FoundModel>, String>)>),
    /// Residency of this host, and digests that loads computed.
    Resident(Vec<(ComponentId, String)>),
}

/// Commits a report and its effects, or nothing.
///
/// # Errors
/// Database errors; the caller may try again.
pub async fn commit(agent: &Agent, lease: JobLease, report: &Report, effects: &Effects) -> Result<Settlement, DbError> {
    if matches!(effects, Effects::None) {
        return jobs::report(&agent.pool, &agent.teller, lease, report, rules::jitter()).await;
    }
    let mut tx = agent.pool.begin().await?;
    if jobs::hold(&mut tx, lease).await?.is_none() {
        return Ok(Settlement::Stale);
    }
    let mut merged = Vec::new();
    let report = apply(agent, &mut tx, report, effects, &mut merged).await?;
    let settlement = jobs::settle(&mut tx, lease, &report, rules::jitter()).await?;
    if settlement == Settlement::Stale {
        return Ok(settlement);
    }
    tx.commit().await?;
    for (held, now) in merged {
        agent.aliases.learn(held, now);
    }
    Ok(settlement)
}

/// Components that turned out to be others: the id they are held under, and the one they have now.
type Merged = Vec<(ComponentId, ComponentId)>;

async fn apply(
    agent: &Agent,
    tx: &mut Session,
    report: &Report,
    effects: &Effects,
    merged: &mut Merged,
) -> Result<Report, DbError> {
    match effects {
        Effects::None => Ok(report.clone()),
        Effects::Scanned(roots) => {
            let mut counts = serde_json::Map::new();
            for (root, found) in roots {
                counts.insert(root.clone(), record_root(agent, tx, root, found).await?);
            }
            Ok(with_result(report, "roots", counts.into()))
        }
        Effects::Resident(digests) => {
            for (component, digest) in digests {
                match models::register_digest(tx, *component, digest).await? {
                    Registered::Own | Registered::Gone => {}
                    Registered::Merged(now) => merged.push((*component, now)),
                    Registered::Mismatch => return Ok(mismatch(*component, digest)),
                }
            }
            residency::replace(tx, &agent.host, agent.me, &publisher::residency_rows(agent)).await?;
            Ok(report.clone())
        }
    }
}

async fn record_root(
    agent: &Agent,
    tx: &mut Session,
    root: &str,
    found: &Result<Vec<FoundModel>, String>,
) -> Result<serde_json::Value, DbError> {
    match found {
        Ok(found) => {
            let counts = models::record_scan(tx, &agent.host, root, found).await?;
            serde_json::to_value(counts).map_err(|error| DbError::BadRow(error.to_string()))
        }
        Err(reason) => {
            models::root_missing(tx, &agent.host, root, reason).await?;
            Ok(serde_json::json!({ "missing": reason }))
        }
    }
}

fn with_result(report: &Report, key: &str, value: serde_json::Value) -> Report {
    let mut report = report.clone();
    if let Report::Succeeded { result: serde_json::Value::Object(result) } = &mut report {
        result.insert(key.to_owned(), value);
    }
    report
}

/// Another load registered other bytes for this component in the meantime (G7).
fn mismatch(component: ComponentId, digest: &str) -> Report {
    let message = format!("component {component} was read with digest {digest}, but another digest is registered");
    let hint = Some("scan the root again; if nobody replaced the file, check the disk".into());
    Report::Failed { error: ErrorBody { hint, ..ErrorBody::new(ErrorCode::Corrupt, message) } }
}
