//! From a program's wish to a lease: the component's row, its content in RAM, and a load where it is not there.

use std::time::{Duration, Instant};

use residency::Lease;
use shared::{
    db::{
        jobs,
        models::{self, ComponentRow, ModelRow},
    },
    error::{ErrorBody, ErrorCode},
    ids::JobId,
    job::{CacheAddArgs, JobSpec, NewJob, Target, enqueue},
};

use super::protocol::{Tier, WAIT_MAX_SECONDS, Wanted};
use crate::context::Agent;

/// First and longest pause between two looks at a load.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A component with its lease.
pub(super) struct Found {
    pub(super) model: ModelRow,
    pub(super) component: ComponentRow,
    pub(super) lease: Lease,
    pub(super) resident: bool,
}

/// Finds the component, loads it if that is wanted, and leases it.
pub(super) async fn find(agent: &Agent, wanted: &Wanted) -> Result<Found, ErrorBody> {
    if wanted.tier == Tier::Vram {
        let message = "weights on devices cannot be attached, only those in RAM";
        return Err(hinted(ErrorCode::Unsupported, message, "ask for `\"tier\": \"ram\"`"));
    }
    if !(0.0..=WAIT_MAX_SECONDS).contains(&wanted.wait_seconds) {
        let message = format!("`wait_seconds` is {}: 0 to {WAIT_MAX_SECONDS}", wanted.wait_seconds);
        return Err(ErrorBody::new(ErrorCode::InvalidArgument, message));
    }
    let (model, component) = row(agent, wanted).await?;
    if let Some(lease) = lease(agent, &component) {
        return Ok(Found { model, component, lease, resident: true });
    }
    if !wanted.load {
        let message = format!("`{}` of model `{}` is not in RAM on host `{}`", component.kind, model.name, agent.host);
        return Err(hinted(ErrorCode::NotFound, &message, "cache the model first, or leave `load` to its default"));
    }
    load(agent, &model, &component, Duration::from_secs_f64(wanted.wait_seconds)).await?;
    // a load may have found that the component is one that was known already
    let (model, component) = row(agent, wanted).await?;
    let lease = lease(agent, &component).ok_or_else(|| {
        let message = format!("`{}` of model `{}` was evicted as soon as it was loaded", component.kind, model.name);
        hinted(ErrorCode::InsufficientCapacity, &message, "free RAM of the host, or raise --ram-budget of its agent")
    })?;
    Ok(Found { model, component, lease, resident: false })
}

fn hinted(code: ErrorCode, message: &str, hint: &str) -> ErrorBody {
    ErrorBody { hint: Some(hint.to_owned()), ..ErrorBody::new(code, message) }
}

fn lease(agent: &Agent, component: &ComponentRow) -> Option<Lease> {
    let lease = agent.aliases.held(component.id).into_iter().find_map(|id| agent.tier.lease(&id.to_string()).ok());
    lease.inspect(|lease| lease.mark("an attached program"))
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
async fn load(agent: &Agent, model: &ModelRow, component: &ComponentRow, wait: Duration) -> Result<(), ErrorBody> {
    let args = CacheAddArgs {
        model: model.id,
        components: Some(vec![component.kind.clone()]),
        keep_alive: None,
        protect: false,
    };
    let job = NewJob::new(JobSpec::CacheAdd(args), Target::Host(agent.host.clone()));
    let enqueued = async {
        let mut tx = agent.pool.begin().await?;
        let enqueued = enqueue(&mut tx, job).await?;
        tx.commit().await?;
        Ok::<_, shared::db::DbError>(enqueued.id)
    };
    let id = enqueued.await.map_err(|error| ErrorBody::of(&error))?;
    ended(agent, id, wait).await
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
