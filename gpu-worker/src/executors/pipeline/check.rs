//! Whether the bytes of bases on a device are what they were when they came: read back and hashed.

use residency::Reason;
use serde_json::{Value, json};
use shared::{error::chain, ids::ComponentId};

use crate::{
    context::{Agent, Device},
    device_tier::evict,
    error::WorkError,
    managers::variants::Check,
    runner::DeviceResident,
};

/// One copy that was looked at.
#[derive(Debug)]
pub(super) struct Checked {
    /// The id that it is held under.
    pub(super) held: ComponentId,
    /// The component.
    pub(super) component: ComponentId,
    /// What was found.
    pub(super) check: Check,
}

impl Checked {
    /// As a job's result shows it.
    pub(super) fn view(&self) -> Value {
        json!({ "component": self.component, "result": self.check.as_str() })
    }
}

/// Checks these copies; each is counted.
pub(super) async fn all(agent: &Agent, device: &Device, copies: &[DeviceResident]) -> Vec<Checked> {
    let mut checked = Vec::new();
    for copy in copies {
        let component = agent.aliases.now(copy.component);
        let check = match device.runner.digest(copy.component).await {
            Ok(digest) if digest == copy.digest => Check::Equal,
            Ok(digest) => {
                let device = &device.id;
                tracing::error!(%component, digest, expected = copy.digest, device, "a base's bytes on the device have changed");
                Check::Different
            }
            Err(error) => {
                tracing::warn!(%component, error = %chain(&error), device = device.id, "a base could not be read back");
                Check::Failed
            }
        };
        agent.metrics.variants.checked(check);
        checked.push(Checked { held: copy.component, component, check });
    }
    checked
}

/// Takes what differs off, with the variants that were made from it; true when there was something. The next run loads it
/// anew.
pub(super) async fn take_off_different(agent: &Agent, device: &Device, checks: &[Checked]) -> Result<bool, WorkError> {
    let different: Vec<&Checked> = checks.iter().filter(|one| one.check == Check::Different).collect();
    for one in &different {
        for (variant, _) in device.variants.among(&device.resident()) {
            if variant.base == one.component {
                evict::take(agent, device, variant.id, Reason::Superseded, true).await?;
            }
        }
        evict::take(agent, device, one.held, Reason::Superseded, true).await?;
    }
    Ok(!different.is_empty())
}

/// The same without anybody waiting.
pub(super) async fn in_the_background(agent: &Agent, device: &Device, copies: &[DeviceResident]) {
    let checks = all(agent, device, copies).await;
    if let Err(stays) = take_off_different(agent, device, &checks).await {
        tracing::error!(device = device.id, stays = %chain(&stays), "a base whose bytes have changed stays on the device");
    }
}
