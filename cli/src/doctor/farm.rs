//! Does the API answer, is it ready, and do its clock and ours agree.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Finding;
use crate::{
    client::{Client, Health},
    error::CliError,
};

/// Leases use the database's clock; people and logs use this one.
const SKEW_ALLOWED: Duration = Duration::from_secs(5);

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    let fix = "start a farm with `modelyard up`, or name a running one with --api URL";
    match client.health().await {
        Ok(health) => vec![ready(client, &health), clock(&health)],
        Err(error @ CliError::Unreachable { .. }) => vec![Finding::warn("api", error.to_string(), fix)],
        Err(error) => vec![Finding::warn("api", shared::error::chain(&error), fix)],
    }
}

fn ready(client: &Client, health: &Health) -> Finding {
    if health.ready {
        return Finding::ok("api", format!("{} is ready", client.base()));
    }
    let detail = format!("{} is not ready: {}", client.base(), health.text.trim());
    Finding::fail("api", detail, "mend the store that it names; the API recovers by itself")
}

fn clock(health: &Health) -> Finding {
    let Some(there) = health.date else {
        return Finding::warn("clock", "the API sends no date", "look for a proxy that removes headers");
    };
    let skew = skew(there, Utc::now());
    if skew <= SKEW_ALLOWED {
        return Finding::ok("clock", "agrees with the API's");
    }
    Finding::warn("clock", format!("{} s away from the API's", skew.as_secs()), "synchronise it, e.g. with chrony")
}

fn skew(there: DateTime<Utc>, here: DateTime<Utc>) -> Duration {
    (there - here).abs().to_std().unwrap_or(Duration::MAX)
}
