//! `load`: a model to a device, and into RAM on the way.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use shared::job::{Keep, LoadArgs};

use super::{
    Done, model,
    place::{self, PlacedComponent},
};
use crate::{
    commit::Effects,
    context::{Agent, Device},
    error::WorkError,
    running::Attempt,
};

/// How often shared byte counters are copied into the attempt's progress.
const SAMPLE: Duration = Duration::from_millis(100);

pub(super) async fn run(agent: &Arc<Agent>, args: LoadArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let started = Instant::now();
    attempt.progress.enter("locating", 0);
    let device = device_of(agent, attempt)?;
    let wanted = model::wanted(agent, args.model, args.components.as_ref()).await?;
    let inspection = model::inspect(agent, attempt, &wanted).await?;
    let keep = Keep { keep_alive: args.keep_alive, protect: args.protect };
    let placed = place::ensure(agent, attempt, device, (&wanted, &inspection), keep).await?;
    attempt.progress.enter("done", wanted.bytes());
    attempt.progress.set(wanted.bytes());
    let bytes: u64 = placed.components.iter().map(|placed| placed.device.bytes).sum();
    let result = serde_json::json!({
        "model": wanted.model.name, "device": device.id, "bytes": bytes, "seconds": started.elapsed().as_secs_f64(),
        "components": placed.components.iter().map(PlacedComponent::view).collect::<Vec<_>>(),
    });
    Ok(Done { result, effects: Effects::Resident(placed.digests()) })
}

/// The device of a job of the device lane.
pub(super) fn device_of<'a>(agent: &'a Agent, attempt: &Attempt) -> Result<&'a Device, WorkError> {
    let id = attempt.device.clone().unwrap_or_default();
    agent.devices.get(&id).ok_or(WorkError::NoDevice(id))
}

/// Runs `work` while a sampler copies `done` into the attempt's progress.
pub(super) async fn watched<T>(attempt: &Attempt, work: impl Future<Output = T>, done: impl Fn() -> u64) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(SAMPLE) => attempt.progress.set(done()),
        }
    }
}
