//! Whether the bytes of bases on a device are what they were when they came: read back and hashed.

use std::time::Duration;

use residency::Reason;
use serde_json::{Value, json};
use shared::{error::chain, ids::ComponentId};

use crate::{
    context::{Agent, Device},
    device_tier::evict,
    error::WorkError,
    managers::variants::Check,
    runner::{DeviceResident, RunnerError},
};

/// How long what is in use is left before it is tried again, should nobody tell that it is free.
const AGAIN: Duration = Duration::from_secs(1);

/// One copy that was looked at.
#[derive(Debug)]
pub(super) struct Checked {
    /// The copy.
    copy: DeviceResident,
    /// The component.
    component: ComponentId,
    /// What was found.
    check: Check,
    /// Why it could not be read back.
    error: Option<RunnerError>,
}

impl Checked {
    /// Its bytes are not those that it came with.
    pub(super) fn differs(&self) -> bool {
        self.check == Check::Different
    }

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
        let (check, error) = match device.runner.digest(copy.component).await {
            Ok(digest) if digest == copy.digest => (Check::Equal, None),
            Ok(digest) => {
                let device = &device.id;
                tracing::error!(%component, digest, expected = copy.digest, device, "a base's bytes on the device have changed");
                (Check::Different, None)
            }
            Err(error) => {
                tracing::warn!(%component, error = %chain(&error), device = device.id, "a base could not be read back");
                (Check::Failed, Some(error))
            }
        };
        agent.metrics.variants.checked(check);
        checked.push(Checked { copy: copy.clone(), component, check, error });
    }
    checked
}

/// Whoever asked to be told is told of each.
///
/// # Errors
/// The first that could not be read back; Unavailable where it went with its process.
pub(super) fn must_be_known(device: &Device, checks: &[Checked]) -> Result<(), WorkError> {
    let failed = checks.iter().find_map(|one| one.error.clone());
    failed.map_or(Ok(()), |error| match error {
        RunnerError::NotResident { component, .. } => {
            let reason = format!("component {component} went while it was to be checked");
            Err(RunnerError::Unavailable { device: device.id.clone(), reason }.into())
        }
        other => Err(other.into()),
    })
}

/// Takes what differs off, with the variants that were made from it. The next run loads it anew.
///
/// # Errors
/// What stays; the others went.
pub(super) async fn take_off_different(agent: &Agent, device: &Device, checks: &[Checked]) -> Result<(), WorkError> {
    let mut stays = Ok(());
    for one in checks.iter().filter(|one| one.differs()) {
        stays = take_off(agent, device, one).await.and(stays);
    }
    stays
}

/// That copy, not one that was loaded since.
async fn take_off(agent: &Agent, device: &Device, one: &Checked) -> Result<(), WorkError> {
    for (variant, _) in device.variants.among(&device.resident()) {
        if variant.base == one.component && is_there(device, &one.copy) {
            evict::take(agent, device, variant.id, Reason::Superseded, true).await?;
        }
    }
    if is_there(device, &one.copy) {
        evict::take(agent, device, one.copy.component, Reason::Superseded, true).await?;
    }
    Ok(())
}

fn is_there(device: &Device, copy: &DeviceResident) -> bool {
    device.resident().iter().any(|there| there.component == copy.component && there.since == copy.since)
}

/// The same without anybody waiting: what is in use goes as soon as it is not.
pub(super) async fn in_the_background(agent: &Agent, device: &Device, copies: &[DeviceResident]) {
    let checks = all(agent, device, copies).await;
    let (mut notes, mut status) = (device.tier.changes(), device.runner.status());
    while let Err(stays) = take_off_different(agent, device, &checks).await {
        tracing::error!(device = device.id, stays = %chain(&stays), "a base whose bytes have changed is in use; it goes once it is not");
        // a refusal changes the notes itself, and a use may have ended under it: neither spins nor waits for ever
        notes.mark_unchanged();
        status.mark_unchanged();
        tokio::select! {
            _ = notes.changed() => {}
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
