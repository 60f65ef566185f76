//! Memory pressure: watches what the system has left, tells the RAM tier how much it may hold, and says so.
//!
//! Reading ([`sample`]) and deciding ([`decide`]) are apart; here is the loop between them and the tier. A cut takes out
//! by the tier's policy what no longer fits; what is leased or protected stays, and loads are refused with the reason.
//! Where that is not enough, devices whose memory is the host's give what they can, by their policy.

pub mod decide;
pub mod sample;

use std::{sync::Arc, time::Duration};

use decide::{Governor, Held, Level, Order, Settings};
use sample::{Sample, Sampler};
use shared::error::chain;
use tokio::task::JoinHandle;

use crate::{context::Agent, device_tier::evict};

/// Time between looks: a limit that is cut while the tier is full has to be met within two seconds.
const PERIOD: Duration = Duration::from_millis(250);
/// Headroom where none is configured, as a part of the memory that there is, and its bounds.
const HEADROOM_PART: u64 = 32;
const HEADROOM_MIN: u64 = 64 << 20;
const HEADROOM_MAX: u64 = 2 << 30;

/// What was last seen and ordered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pressure {
    /// What the system said.
    pub sample: Sample,
    /// How tight it is.
    pub level: Level,
    /// Why the budget is cut; empty while it is not.
    pub cause: String,
    /// Memory that others are left.
    pub headroom_bytes: u64,
}

/// The headroom for a machine (or group) with so much memory.
pub fn headroom(configured: Option<u64>, sample: &Sample) -> u64 {
    configured.unwrap_or_else(|| (sample.limit_bytes() / HEADROOM_PART).clamp(HEADROOM_MIN, HEADROOM_MAX))
}

/// Watches until the process stops.
pub async fn watch(agent: Arc<Agent>, sampler: Sampler, headroom_bytes: u64) {
    let budget_bytes = agent.tier.snapshot().ledger.configured_bytes;
    let mut governor = Governor::new(Settings { budget_bytes, headroom_bytes });
    let mut readable = true;
    let mut shrinking: Option<JoinHandle<()>> = None;
    loop {
        let look = sampler.clone();
        // a read of a group's figures may wait for the kernel to gather them
        match tokio::task::spawn_blocking(move || look.sample()).await {
            Ok(Ok(sample)) => {
                readable = true;
                let short = look_after(&agent, &mut governor, sample, headroom_bytes).await;
                // apart: a runner that is busy copying answers late, and RAM is looked after meanwhile
                if let Some((short_bytes, cause)) =
                    short.filter(|_| shrinking.as_ref().is_none_or(JoinHandle::is_finished))
                {
                    let of = agent.clone();
                    let shrink = async move { shrink_devices(&of, short_bytes, &cause).await };
                    shrinking = Some(agent.tasks.spawn("shrink devices", shrink));
                }
            }
            failed if readable => {
                readable = false;
                let why = match failed {
                    Ok(Err(error)) => chain(&error),
                    _ => "the look was given up".to_owned(),
                };
                tracing::warn!(why, "the system's memory cannot be read; the last limit holds");
            }
            _ => {}
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Returns the bytes that are still short, and why, when devices are to give some.
async fn look_after(
    agent: &Agent,
    governor: &mut Governor,
    sample: Sample,
    headroom_bytes: u64,
) -> Option<(u64, String)> {
    let order = governor.step(&sample, held(agent), agent.tier.uptime());
    let mut level = order.level;
    if is_news(agent, &order) {
        match agent.tier.limit(order.limit_bytes, &order.cause).await {
            Ok(freed) if freed.0 > 0 => {
                tracing::warn!(
                    freed_bytes = freed.0,
                    limit_bytes = order.limit_bytes,
                    cause = order.cause,
                    "gave memory back under pressure"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %chain(&error), "the limit was not applied; trying again"),
        }
    }
    let short_bytes = order.deficit_bytes.saturating_add(agent.tier.ledger().excess_bytes());
    let short = (short_bytes > 0).then(|| (short_bytes, order.cause.clone()));
    // what could go has gone: what is still too much is in use
    if level == Level::Critical && held(agent).ledger_bytes <= order.limit_bytes {
        level = Level::Tight;
    }
    publish(agent, Pressure { sample, level, cause: order.cause, headroom_bytes });
    short
}

/// Takes components off devices whose memory is the host's: the RAM tier alone cannot give what is short.
async fn shrink_devices(agent: &Agent, short_bytes: u64, cause: &str) {
    let mut left = short_bytes;
    for device in agent.devices.values().filter(|device| device.is_host_memory()) {
        let freed_bytes = evict::shrink(agent, device, left).await;
        left = left.saturating_sub(freed_bytes);
        if freed_bytes > 0 {
            tracing::warn!(freed_bytes, device = device.id, cause, "a device gave memory back under pressure");
        }
    }
}

/// The limit is new, or more is held than it allows.
fn is_news(agent: &Agent, order: &Order) -> bool {
    let ledger = agent.tier.ledger();
    ledger.budget_bytes != order.limit_bytes || ledger.excess_bytes() > 0
}

fn held(agent: &Agent) -> Held {
    let ledger = agent.tier.ledger();
    let ledger_bytes = ledger.used_bytes.saturating_add(ledger.reserved_bytes);
    let system_bytes = agent.tier.accounted_vs_system().map_or(ledger.used_bytes, |audit| audit.system_bytes);
    Held { ledger_bytes, system_bytes }
}

/// Wakes the publisher when the level changed.
fn publish(agent: &Agent, now: Pressure) {
    let before = agent.pressure.send_replace(now.clone());
    if before.level != now.level {
        tracing::warn!(from = before.level.as_str(), to = now.level.as_str(), cause = now.cause, "memory pressure");
        agent.changed.notify_one();
    }
}
