//! From a program's wish to a lease: the component's row, its content in RAM or on a device, and a load where it is not
//! there.

use std::time::{Duration, Instant};

use residency::Lease;
use shared::{
    db::{
        jobs,
        models::{self, ComponentRow, ModelRow},
    },
    error::{ErrorBody, ErrorCode},
    ids::{JobId, ModelId},
    job::{CacheAddArgs, JobSpec, LoadArgs, NewJob, Target, enqueue},
};

use super::protocol::{Tier, WAIT_MAX_SECONDS, Wanted};
use crate::{
    context::{Agent, Device},
    device_tier::NamedProgram,
    runner::{DeviceShare, RunnerError},
};

/// First and longest pause between two looks at a load.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A component with its lease.
pub(super) struct Found {
    pub(super) model: ModelRow,
    pub(super) component: ComponentRow,
    pub(super) held: Held,
    pub(super) resident: bool,
}

/// The lease.
#[derive(Debug)]
pub(super) enum Held {
    /// On memory of the RAM tier.
    Ram(Lease),
    /// On memory of a device.
    Device(Box<OnDevice>),
}

/// A component on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    pub(super) device: String,
    pub(super) uuid: Option<String>,
    pub(super) share: DeviceShare,
    /// Says who it is.
    pub(super) named: NamedProgram,
}

/// Finds the component, loads it if that is wanted, and leases it for the program, which is named where somebody asks why it stays.
pub(super) async fn find(agent: &Agent, wanted: &Wanted, program: &str) -> Result<Found, ErrorBody> {
    if !(0.0..=WAIT_MAX_SECONDS).contains(&wanted.wait_seconds) {
        let message = format!("`wait_seconds` is {}: 0 to {WAIT_MAX_SECONDS}", wanted.wait_seconds);
        return Err(ErrorBody::new(ErrorCode::InvalidArgument, message));
    }
    let devices = devices(agent, wanted)?;
    let (model, component) = row(agent, wanted).await?;
    if let Some(held) = held(agent, &component, (wanted.tier, &devices), program).await? {
        return Ok(Found { model, component, held, resident: true });
    }
    let place = if wanted.tier == Tier::Ram { "in RAM" } else { "on such a device" };
    if !wanted.load {
        let message = format!("`{}` of model `{}` is not {place} on host `{}`", component.kind, model.name, agent.host);
        return Err(hinted(ErrorCode::NotFound, &message, "load the model first, or leave `load` to its default"));
    }
    load(agent, &model, &component, wanted, &devices).await?;
    // a load may have found that the component is one that was known already
    let (model, component) = row(agent, wanted).await?;
    let held = held(agent, &component, (wanted.tier, &devices), program).await?.ok_or_else(|| {
        let message = format!("`{}` of model `{}` was taken away as soon as it was loaded", component.kind, model.name);
        hinted(ErrorCode::InsufficientCapacity, &message, "make room on the host, or raise --ram-budget of its agent")
    })?;
    Ok(Found { model, component, held, resident: false })
}

/// The devices that will do: the named one, or all of this host.
fn devices<'a>(agent: &'a Agent, wanted: &Wanted) -> Result<Vec<&'a Device>, ErrorBody> {
    let Some(name) = &wanted.device else { return Ok(agent.devices.values().collect()) };
    if wanted.tier == Tier::Ram {
        return Err(hinted(
            ErrorCode::InvalidArgument,
            "`device` is for weights on a device",
            "ask for `\"tier\": \"vram\"`",
        ));
    }
    let named = agent.devices.values().find(|device| device.name == *name || device.id == *name);
    named.map(|device| vec![device]).ok_or_else(|| {
        let known = agent.devices.values().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("host `{}` runs no device `{name}`", agent.host);
        hinted(ErrorCode::NotFound, &message, &format!("it runs {known}"))
    })
}

/// A lease on what is resident now.
async fn held(
    agent: &Agent,
    component: &ComponentRow,
    (tier, devices): (Tier, &[&Device]),
    program: &str,
) -> Result<Option<Held>, ErrorBody> {
    if tier == Tier::Ram {
        return Ok(lease(agent, component, program).map(Held::Ram));
    }
    for device in devices {
        let (resident, uuid) = {
            let status = device.runner.status();
            let status = status.borrow();
            let ids = agent.aliases.held(component.id);
            let here = status.resident.iter().map(|resident| resident.component).find(|id| ids.contains(id));
            (here, status.facts.as_ref().and_then(|facts| facts.uuid.clone()))
        };
        let Some(id) = resident else { continue };
        match device.runner.share(id).await {
            Ok(share) => {
                let named = device.tier.name(id, program);
                return Ok(Some(Held::Device(Box::new(OnDevice { device: device.name.clone(), uuid, share, named }))));
            }
            // it went away in this moment
            Err(RunnerError::NotResident { .. } | RunnerError::Crashed { .. }) => {}
            Err(error) => return Err(ErrorBody::of(&error)),
        }
    }
    Ok(None)
}

fn hinted(code: ErrorCode, message: &str, hint: &str) -> ErrorBody {
    ErrorBody { hint: Some(hint.to_owned()), ..ErrorBody::new(code, message) }
}

fn lease(agent: &Agent, component: &ComponentRow, program: &str) -> Option<Lease> {
    let lease = agent.aliases.held(component.id).into_iter().find_map(|id| agent.tier.lease(&id.to_string()).ok());
    lease.inspect(|lease| lease.mark(program))
}

async fn row(agent: &Agent, wanted: &Wanted) -> Result<(ModelRow, ComponentRow), ErrorBody> {
    let model = models::find(&agent.pool, &wanted.model).await.map_err(|error| ErrorBody::of(&error))?;
    let Some(model) = model else {
        let message = format!("there is no model `{}`", wanted.model);
        return Err(hinted(ErrorCode::NotFound, &message, "`modelyard models ls` shows which there are"));
    };
    let rows = models::components_of(&agent.pool, &[model.id]).await.map_err(|error| ErrorBody::of(&error))?;
    let kinds = rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>().join(", ");
    let mut fitting = rows.into_iter().filter(|row| wanted.component.as_ref().is_none_or(|kind| *kind == row.kind));
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok((model, only)),
        (Some(_), Some(_)) => {
            let message = format!("model `{}` has several components", model.name);
            Err(hinted(ErrorCode::InvalidArgument, &message, &format!("name one of {kinds}")))
        }
        (None, _) => {
            let asked = wanted.component.as_deref().unwrap_or("any");
            let message = format!("model `{}` has no component `{asked}`", model.name);
            let hint = (!kinds.is_empty()).then(|| format!("it has {kinds}"));
            Err(ErrorBody { hint, ..ErrorBody::new(ErrorCode::NotFound, message) })
        }
    }
}

/// Loads through the queue, like everybody: an equal load that is under way is joined, and the job is seen by all.
async fn load(
    agent: &Agent,
    model: &ModelRow,
    component: &ComponentRow,
    wanted: &Wanted,
    devices: &[&Device],
) -> Result<(), ErrorBody> {
    let (model, components) = (model.id, Some(vec![component.kind.clone()]));
    let host = Target::Host(agent.host.clone());
    let (spec, target) = match (wanted.tier, devices) {
        (Tier::Ram, _) => {
            (JobSpec::CacheAdd(CacheAddArgs { model, components, keep_alive: None, protect: false }), host)
        }
        (Tier::Vram, [only]) => (load_spec(model, components), Target::Device(only.id.clone())),
        (Tier::Vram, _) => (load_spec(model, components), host),
    };
    let job = NewJob::new(spec, target);
    let enqueued = async {
        let mut tx = agent.pool.begin().await?;
        let enqueued = enqueue(&mut tx, job).await?;
        tx.commit().await?;
        Ok::<_, shared::db::DbError>(enqueued.id)
    };
    let id = enqueued.await.map_err(|error| ErrorBody::of(&error))?;
    ended(agent, id, Duration::from_secs_f64(wanted.wait_seconds)).await
}

fn load_spec(model: ModelId, components: Option<Vec<String>>) -> JobSpec {
    JobSpec::Load(LoadArgs { model, components, keep_alive: None, protect: false })
}

async fn ended(agent: &Agent, id: JobId, wait: Duration) -> Result<(), ErrorBody> {
    let until = Instant::now() + wait;
    let (mut pause, longest) = LOOK;
    loop {
        let row = jobs::find(&agent.pool, id).await.map_err(|error| ErrorBody::of(&error))?;
        let Some(row) = row else {
            return Err(ErrorBody::new(ErrorCode::Internal, format!("job {id}, which loads it, is gone")));
        };
        match row.state.as_str() {
            "succeeded" => return Ok(()),
            state @ ("failed" | "cancelled" | "quarantined") => {
                let said = row.error.and_then(|error| serde_json::from_value(error).ok());
                let ended = || ErrorBody::new(ErrorCode::Cancelled, format!("job {id}, which loads it, is {state}"));
                return Err(said.unwrap_or_else(ended));
            }
            _ if Instant::now() >= until => {
                let message = format!("it was not loaded within {} s; job {id} goes on", wait.as_secs_f64());
                return Err(ErrorBody::new(ErrorCode::Timeout, message));
            }
            _ => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(longest);
    }
}
