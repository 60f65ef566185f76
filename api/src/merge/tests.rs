//! When a snapshot counts, when a report stands in, and what each says of its age.

use shared::ids::Incarnation;

use super::*;

/// A living host for tests of this package.
pub(crate) fn host_row(name: &str) -> HostRow {
    HostRow {
        name: name.into(),
        incarnation: Incarnation::generate(),
        agent_version: "0".into(),
        draining: false,
        labels: Vec::new(),
        slots: 2,
        ram_budget_bytes: 1000,
        capabilities: serde_json::json!({}),
        registered_at: Utc::now(),
        lease_until: Some(Utc::now()),
        alive: true,
    }
}

fn snapshot(row: &HostRow) -> HostSnapshot {
    HostSnapshot {
        host: row.name.clone(),
        incarnation: row.incarnation,
        generation: 1,
        at: Utc::now(),
        ram: CacheStats::default(),
        entries: Vec::new(),
        devices: Vec::new(),
        jobs: Vec::new(),
        watches: Vec::new(),
        ram_policy: None,
        pressure: None,
        nvml: None,
        unaccounted: Vec::new(),
        draining: false,
        process_rss_bytes: 0,
        memory: None,
    }
}

fn report(row: &HostRow) -> ResidencyRow {
    ResidencyRow {
        job: None,
        host: row.name.clone(),
        device: String::new(),
        component_id: ComponentId::generate(),
        tier: "ram".into(),
        state: "ready".into(),
        bytes: 7,
        leases: 0,
        protected: false,
        incarnation: row.incarnation,
        since: Utc::now(),
        models: Vec::new(),
    }
}

#[test]
fn a_snapshot_of_the_registered_agent_counts_and_rows_are_not_looked_at() {
    let row = host_row("a");
    let hosts = with_snapshots(vec![row.clone()], Ok(vec![snapshot(&row)]));
    let view = View::of(hosts, Vec::new(), &[report(&row)], None);
    assert!(view.held.is_empty() && !view.staleness.stale);
}

#[test]
fn without_redis_the_last_report_stands_in_and_says_so() {
    let row = host_row("a");
    let hosts = with_snapshots(vec![row.clone()], Err("Redis failed".into()));
    let view = View::of(hosts, Vec::new(), &[report(&row)], Some("Redis failed".into()));
    assert_eq!((view.held.len(), view.staleness.stale), (1, true));
    assert_eq!(view.ram(&view.hosts[0]).used_bytes, 7);
}

#[test]
fn a_snapshot_of_an_earlier_agent_does_not_count() {
    let row = host_row("a");
    let old = HostSnapshot { incarnation: Incarnation::generate(), ..snapshot(&row) };
    let hosts = with_snapshots(vec![row], Ok(vec![old]));
    assert!(hosts[0].live.is_none() && hosts[0].staleness().reason.unwrap().contains("earlier agent"));
}

#[test]
fn a_lost_host_is_stale_itself_but_leaves_the_farm_fresh() {
    let row = HostRow { alive: false, ..host_row("a") };
    let hosts = with_snapshots(vec![row.clone()], Ok(vec![snapshot(&row)]));
    let view = View::of(hosts, Vec::new(), &[], None);
    assert!(view.hosts[0].staleness().stale && !view.staleness.stale);
    assert_eq!(view.hosts[0].state(), "lost");
}
