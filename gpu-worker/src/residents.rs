//! What the database is told of residency: a row for each component in each place, and why others left since it was told before.

use std::collections::HashMap;

use chrono::DateTime;
use shared::{
    db::{
        DbError, Session,
        residency::{self, Report, ResidencyRow},
    },
    ids::ComponentId,
    status::{Entry, HostSnapshot},
};

use crate::{
    context::Agent,
    publisher::{self, signed},
    running,
};

/// Writes what is resident at this moment, in the caller's transaction; after its commit, [`told`]. None where nothing was written, because
/// this agent has no lease now.
///
/// # Errors
/// Database errors.
pub async fn store(agent: &Agent, tx: &mut Session) -> Result<Option<Report>, DbError> {
    residency::replace(tx, &agent.host, agent.me, || of(agent)).await
}

fn of(agent: &Agent) -> Report {
    let rows = rows(agent, &publisher::snapshot(agent, false));
    // after the rows: why one of them is missing was noted before it was
    let ram = departures("", agent.tier.departures());
    let devices =
        agent.devices.values().flat_map(|device| departures(&device.id, device.tier.departures(device.deaths())));
    Report { rows, departures: ram.into_iter().chain(devices).collect() }
}

/// Keys of the tiers are component ids; anything else is not ours to tell.
fn departures(device: &str, said: Vec<::residency::Departure>) -> Vec<residency::Departure> {
    let one = |::residency::Departure { key, why, unix_ms }| {
        Some(residency::Departure {
            device: device.to_owned(),
            component_id: key.parse().ok()?,
            reason: why.reason.as_str().to_owned(),
            wanted: why.wanted,
            job: why.by.as_deref().and_then(running::job_of),
            at: DateTime::from_timestamp_millis(signed(unix_ms))?,
        })
    };
    said.into_iter().filter_map(one).collect()
}

/// The report is committed: why something left needs not be said again, unless it is still on its way.
pub fn told(agent: &Agent, report: &Report) {
    for one in report.departures.iter().filter(|one| !is_there(one, &report.rows)) {
        let (key, unix_ms) = (one.component_id.to_string(), u64::try_from(one.at.timestamp_millis()).unwrap_or(0));
        match agent.devices.get(&one.device) {
            Some(device) => device.tier.departure_told(&key, unix_ms),
            None => agent.tier.departure_told(&key, unix_ms),
        }
    }
}

/// Whether the copy that leaves is among the rows, not a later one.
fn is_there(leaving: &residency::Departure, rows: &[ResidencyRow]) -> bool {
    let place = (&*leaving.device, leaving.component_id);
    let found = rows.binary_search_by(|row| (&*row.device, row.component_id).cmp(&place));
    found.ok().and_then(|at| rows.get(at)).is_some_and(|row| {
        matches!(row.state.as_str(), "ready" | "evicting")
            && row.since.timestamp_millis() <= leaving.at.timestamp_millis()
    })
}

/// The rows of a picture, by device and component.
pub fn rows(agent: &Agent, snapshot: &HostSnapshot) -> Vec<ResidencyRow> {
    let row = |device: &str, tier: &str, entry: &Entry| ResidencyRow {
        host: agent.host.clone(),
        device: device.to_owned(),
        component_id: entry.component,
        tier: tier.to_owned(),
        state: entry.state.clone(),
        bytes: signed(entry.bytes),
        leases: i32::try_from(entry.leases).unwrap_or(i32::MAX),
        protected: entry.protected,
        incarnation: agent.me,
        since: entry.since,
        models: entry.models.clone(),
        job: entry.brought_by,
    };
    let ram = snapshot.entries.iter().map(|entry| row("", "ram", entry));
    let vram =
        snapshot.devices.iter().flat_map(|device| device.entries.iter().map(|entry| row(&device.id, "vram", entry)));
    // superseded content of a component may still be leased beside the new one: the database shows one row for both
    let mut rows: HashMap<(String, ComponentId), ResidencyRow> = HashMap::new();
    for row in ram.chain(vram) {
        let slot = rows.entry((row.device.clone(), row.component_id)).or_insert_with(|| row.clone());
        if slot.state != "ready" && row.state == "ready" {
            *slot = row;
        }
    }
    let mut rows: Vec<ResidencyRow> = rows.into_values().collect();
    rows.sort_by(|a, b| (&a.device, a.component_id).cmp(&(&b.device, b.component_id)));
    rows
}

#[cfg(test)]
mod tests {
    use chrono::{Duration, Utc};
    use shared::ids::Incarnation;

    use super::*;

    #[test]
    fn what_is_still_there_or_came_again_is_told_apart() {
        let now = Utc::now();
        let component_id = ComponentId::generate();
        let leaving = residency::Departure {
            device: String::new(),
            component_id,
            reason: "room".into(),
            wanted: None,
            job: None,
            at: now,
        };
        let row = |state: &str, since| ResidencyRow {
            host: "a".into(),
            device: String::new(),
            component_id,
            tier: "ram".into(),
            state: state.into(),
            bytes: 1,
            leases: 0,
            protected: false,
            incarnation: Incarnation::generate(),
            since,
            models: Vec::new(),
            job: None,
        };
        assert!(is_there(&leaving, &[row("evicting", now - Duration::seconds(1))]));
        assert!(!is_there(&leaving, &[row("ready", now + Duration::seconds(1))]));
        assert!(!is_there(&leaving, &[row("loading", now)]));
        assert!(!is_there(&leaving, &[]));
    }
}
