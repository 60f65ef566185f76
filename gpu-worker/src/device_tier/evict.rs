//! Taking copies off a device: to make room, under pressure, when their time is over, on request. Plan, act, keep the record.

use residency::{
    Draft, Reason, Why,
    policy::{self, Goal, Plan, Verdict, select_victims},
};
use shared::{error::chain, ids::ComponentId};

use super::{Noted, book::Stays, view::candidates};
use crate::{
    context::{Agent, Device},
    runner::{DeviceResident, RunnerError},
};

/// Why a copy was not taken off.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Somebody uses it.
    #[error("component {component} is in use on `{device}` ({by} leases)")]
    Leased {
        /// The component.
        component: ComponentId,
        /// The device.
        device: String,
        /// Leases.
        by: usize,
    },
    /// The operator keeps it.
    #[error("component {component} is protected on `{device}`")]
    Protected {
        /// The component.
        component: ComponentId,
        /// The device.
        device: String,
    },
    /// The runner did not do it.
    #[error(transparent)]
    Runner(#[from] RunnerError),
}

/// Marks a copy as leaving until its bytes are back, or it stays.
pub(super) struct Leaving<'d> {
    pub(super) device: &'d Device,
    pub(super) component: ComponentId,
    pub(super) gone: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let (tier, deaths) = (&self.device.tier, self.device.deaths());
        tier.book().left(self.component, (self.gone, deaths), tier.uptime());
        tier.bump();
    }
}

/// Frees `need_bytes` for a copy of `wanted`, or nothing where that cannot be: then the answer is none. Less may come back than was
/// planned, because somebody else took a victim off or into use meanwhile: then more goes, while anything may.
pub async fn make_room(
    agent: &Agent,
    device: &Device,
    (wanted, wanted_bytes): (ComponentId, u64),
    need_bytes: u64,
) -> Option<u64> {
    let _room = device.tier.room.lock().await;
    let mut freed_bytes = None;
    loop {
        let need_bytes = need_bytes.saturating_sub(freed_bytes.unwrap_or(0));
        let plan = plan(agent, device, Goal::AllOf(need_bytes));
        if need_bytes == 0 || plan.victims.is_empty() {
            return freed_bytes;
        }
        let held = device.resident().len();
        let draft =
            Draft { wanted: Some(wanted.to_string()), wanted_bytes, need_bytes, ..chosen(device, Reason::Room) };
        let freed = carry_out(device, draft, plan).await;
        freed_bytes = Some(freed_bytes.unwrap_or(0) + freed);
        // a victim that is in use by now is planned for by the caller, once it asks again
        if device.resident().len() >= held {
            return freed_bytes;
        }
    }
}

/// Frees up to `need_bytes` because the machine's memory is short; what is leased or protected stays.
pub async fn shrink(agent: &Agent, device: &Device, need_bytes: u64) -> u64 {
    let _room = device.tier.room.lock().await;
    let plan = plan(agent, device, Goal::UpTo(need_bytes));
    let draft = Draft { need_bytes, ..chosen(device, Reason::Pressure) };
    carry_out(device, draft, plan).await
}

/// Takes off what has outlived its keep-alive.
pub async fn expire(agent: &Agent, device: &Device) -> u64 {
    let due = |copy: &DeviceResident| device.tier.noted(copy).expires_in.is_some_and(|left| left.is_zero());
    let due: Vec<ComponentId> = device.resident().iter().filter(|copy| due(copy)).map(|copy| copy.component).collect();
    let mut freed_bytes = 0;
    for component in due {
        match take(agent, device, component, Reason::Expired, false).await {
            Ok(bytes) => freed_bytes += bytes,
            Err(stays) => tracing::debug!(%component, %stays, "an expired copy stays on the device"),
        }
    }
    freed_bytes
}

/// Takes one copy off, with its record; how many bytes came back. Nothing is freed, and nothing wrong, when it is not there. What a device
/// does not give back is freed later, so that the copy is gone all the same.
///
/// # Errors
/// [`Refused`]; protected copies go only when `protected_too`.
pub async fn take(
    agent: &Agent,
    device: &Device,
    component: ComponentId,
    why: impl Into<Why>,
    protected_too: bool,
) -> Result<u64, Refused> {
    match take_whole(agent, device, component, why, protected_too).await {
        Err(Refused::Runner(error @ RunnerError::NotFreed { freed_bytes, .. })) => {
            tracing::warn!(%component, error = %chain(&error), "a copy left memory behind");
            Ok(freed_bytes)
        }
        taken => taken,
    }
}

/// The same for who waits for all of its bytes.
///
/// # Errors
/// As [`take`], and [`RunnerError::NotFreed`] for one that is gone and has left memory behind.
pub async fn take_whole(
    agent: &Agent,
    device: &Device,
    component: ComponentId,
    why: impl Into<Why>,
    protected_too: bool,
) -> Result<u64, Refused> {
    let why = why.into();
    let now = device.tier.uptime();
    let row = candidates(agent, device).into_iter().find(|one| *one.key == *component.to_string());
    let (freed_bytes, left_behind) = match out(device, component, protected_too, &why).await {
        Ok(freed_bytes) => (freed_bytes, None),
        Err(Refused::Runner(error @ RunnerError::NotFreed { freed_bytes, .. })) => (Some(freed_bytes), Some(error)),
        Err(stays) => return Err(stays),
    };
    let mut draft = Draft { freed_bytes: freed_bytes.unwrap_or(0), ..Draft::plain(why.reason) };
    let gone = row.filter(|_| freed_bytes.is_some());
    draft.rows.extend(gone.map(|one| policy::row(device.tier.rules, &one, now, Verdict::Evict)));
    device.tier.record(draft);
    left_behind.map_or(Ok(freed_bytes.unwrap_or(0)), |error| Err(error.into()))
}

/// Whether somebody uses a copy, or keeps it.
///
/// # Errors
/// Then.
pub fn may_go(device: &Device, copy: &DeviceResident, noted: &Noted, protected_too: bool) -> Result<(), Refused> {
    let (component, name) = (copy.component, device.id.clone());
    match noted {
        noted if noted.leases > 0 => Err(Refused::Leased { component, device: name, by: noted.leases }),
        noted if noted.protected && !protected_too => Err(Refused::Protected { component, device: name }),
        _ => Ok(()),
    }
}

fn chosen(device: &Device, reason: Reason) -> Draft {
    Draft { policy: Some(device.tier.rules.policy), ..Draft::plain(reason) }
}

fn plan(agent: &Agent, device: &Device, goal: Goal) -> Plan {
    select_victims(device.tier.rules, &candidates(agent, device), goal, device.tier.uptime())
}

/// A victim that was taken into use since the plan stays; the caller plans again.
async fn carry_out(device: &Device, mut draft: Draft, mut plan: Plan) -> u64 {
    let (mut went, why) = (Vec::new(), draft.why());
    for victim in &plan.victims {
        let Ok(component) = victim.parse() else { continue };
        match out(device, component, false, &why).await {
            // somebody else took it off meanwhile, and tells of it
            Ok(None) => plan.rows.retain(|row| *row.key != **victim),
            Ok(Some(bytes)) => {
                draft.freed_bytes += bytes;
                went.push(victim.clone());
                tracing::info!(%component, bytes, reason = draft.reason.as_str(), device = device.id, "took a component off the device");
            }
            Err(Refused::Runner(error @ RunnerError::NotFreed { freed_bytes, .. })) => {
                tracing::warn!(%component, error = %chain(&error), "a victim left memory behind");
                draft.freed_bytes += freed_bytes;
                went.push(victim.clone());
            }
            Err(stays) => tracing::debug!(%component, stays = %chain(&stays), device = device.id, "a victim stays"),
        }
    }
    let freed_bytes = draft.freed_bytes;
    draft.carried_out(plan.rows, |key| went.iter().any(|gone| **gone == *key));
    device.tier.record(draft);
    freed_bytes
}

/// Has the runner free a copy; on return its bytes are back: how many, which are none where others hold all of its memory. None where it
/// is not there; where somebody else is at it, they count the bytes.
async fn out(device: &Device, component: ComponentId, protected_too: bool, why: &Why) -> Result<Option<u64>, Refused> {
    loop {
        let mut changes = device.tier.changes();
        // before the copies: a death after this look took them with it
        let deaths = device.deaths();
        let copies = device.resident();
        let Some(copy) = copies.iter().find(|copy| copy.component == component) else { return Ok(None) };
        let name = || device.id.clone();
        // the lock ends with this statement: nothing is awaited under it
        let left = device.tier.book().leave(copy, protected_too, (why, deaths), device.tier.uptime());
        match left {
            Ok(()) => return free(device, component).await,
            Err(Stays::Leased(by)) => return Err(Refused::Leased { component, device: name(), by }),
            Err(Stays::Protected) => return Err(Refused::Protected { component, device: name() }),
            // the tier lives as long as the device here: this never errs
            Err(Stays::Leaving) => drop(changes.changed().await),
        }
    }
}

/// A copy that is marked as leaving: gone, or there again.
async fn free(device: &Device, component: ComponentId) -> Result<Option<u64>, Refused> {
    let mut leaving = Leaving { device, component, gone: false };
    match device.runner.unload(component).await {
        Ok(bytes) => {
            leaving.gone = true;
            Ok(Some(bytes))
        }
        Err(RunnerError::NotResident { .. }) => {
            leaving.gone = true;
            Ok(None)
        }
        Err(error @ RunnerError::NotFreed { .. }) => {
            leaving.gone = true;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}
