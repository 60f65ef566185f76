//! Takes components out of RAM and off devices whose keep-alive is over.

use std::{sync::Arc, time::Duration};

use shared::error::chain;

use crate::{
    context::{Agent, Device},
    device_tier::evict,
};

/// Longest wait without a look: changes wake it, this only bounds what a missed one costs.
const LONGEST: Duration = Duration::from_secs(60);
/// Shortest wait, so that an entry that is taken at the moment when it expires makes no busy loop.
const SHORTEST: Duration = Duration::from_millis(20);

/// Expires until the process stops.
pub async fn expire(agent: Arc<Agent>) {
    let mut changes = agent.tier.changes();
    loop {
        changes.mark_unchanged();
        let next = agent.tier.next_expiry();
        if next.is_some_and(|left| left.is_zero())
            && let Err(error) = agent.tier.expire().await
        {
            tracing::debug!(error = %chain(&error), "nothing was expired; trying again");
        }
        let wait = agent.tier.next_expiry().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        tokio::select! {
            // an entry that is used or told something expires at another time
            _ = changes.changed() => tokio::time::sleep(SHORTEST).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The same for one device.
pub async fn expire_on(agent: Arc<Agent>, device: Device) {
    // a program that lets go is seen in the runner's status
    let (mut changes, mut status) = (device.tier.changes(), device.runner.status());
    loop {
        changes.mark_unchanged();
        status.mark_unchanged();
        evict::expire(&agent, &device).await;
        let left = device.resident().iter().filter_map(|copy| device.tier.noted(copy).expires_in).min();
        tokio::select! {
            _ = changes.changed() => tokio::time::sleep(SHORTEST).await,
            Ok(()) = status.changed() => tokio::time::sleep(SHORTEST).await,
            () = tokio::time::sleep(left.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)) => {}
        }
    }
}
