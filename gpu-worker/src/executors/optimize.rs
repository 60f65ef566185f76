//! `optimize`: gives memory back until a goal is reached, by a plan that a dry run only shows.

use std::{collections::BTreeMap, sync::Arc};

use residency::{Reason, ResidencyError};
use shared::{
    db::models,
    error::chain,
    ids::ComponentId,
    job::OptimizeArgs,
    wire::{OptimizeAction, OptimizeResult},
};

use super::Done;
use crate::{
    account,
    commit::Effects,
    context::{Agent, Device},
    device_tier::evict::{self, Refused},
    error::WorkError,
    optimize::{
        plan::{self, Action, Piece, Place, Plan},
        survey,
    },
    runner::RunnerError,
    running::Attempt,
};

/// A copy that was taken into use meanwhile stays; so often it is planned anew with what is left.
const ROUNDS: usize = 3;
/// Why nothing is moved together.
const COMPACTION: &str = "nothing to compact: each component has memory of its own, in RAM and on `cpu:0` a memory file, on CUDA \
                          an allocation of the driver, so that what goes leaves no hole behind";

pub(super) async fn run(agent: &Arc<Agent>, args: OptimizeArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    let device = match &args.device {
        Some(id) => Some(agent.devices.get(id).ok_or_else(|| WorkError::NoDevice(id.clone()))?),
        None => None,
    };
    let need_bytes = survey::need_bytes(agent, &args, device);
    attempt.progress.enter("freeing", need_bytes);
    let before = account::of_host(agent);
    let mut work = Work { agent, attempt, device, need_bytes, freed_bytes: 0, actions: Vec::new() };
    if args.dry_run {
        work.show();
    } else {
        work.act().await?;
    }
    name_all(agent, &mut work.actions).await?;
    let Work { freed_bytes, actions, .. } = work;
    let result = OptimizeResult {
        host: agent.host.clone(),
        device: args.device,
        dry_run: args.dry_run,
        need_bytes,
        freed_bytes,
        reached: freed_bytes >= need_bytes,
        short_bytes: need_bytes.saturating_sub(freed_bytes),
        actions,
        compaction: COMPACTION.to_owned(),
        before,
        after: (!args.dry_run).then(|| account::of_host(agent)),
    };
    let result = serde_json::to_value(result).map_err(|error| WorkError::System {
        what: "writing the result down".to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}

struct Work<'a> {
    agent: &'a Arc<Agent>,
    attempt: &'a Attempt,
    device: Option<&'a Device>,
    need_bytes: u64,
    freed_bytes: u64,
    actions: Vec<OptimizeAction>,
}

impl Work<'_> {
    fn plan(&self) -> (Vec<Piece>, Plan) {
        let pieces = survey::pieces(self.agent, self.device);
        let (rules, now) = match self.device {
            Some(device) => (device.tier.rules(), device.tier.uptime()),
            None => (self.agent.tier.rules(), self.agent.tier.uptime()),
        };
        let plan = plan::plan(rules, &pieces, self.need_bytes.saturating_sub(self.freed_bytes), now);
        (pieces, plan)
    }

    /// What would be done.
    fn show(&mut self) {
        let (pieces, plan) = self.plan();
        self.freed_bytes = plan.frees_bytes;
        let steps = plan.steps.iter().filter_map(|step| Some((step, pieces.get(step.piece)?)));
        self.actions = steps.map(|(step, piece)| line(step, piece, "planned")).collect();
    }

    async fn act(&mut self) -> Result<(), WorkError> {
        for _ in 0..ROUNDS {
            let (pieces, plan) = self.plan();
            let before = self.freed_bytes;
            for step in &plan.steps {
                if self.attempt.cancel.is_cancelled() {
                    return Err(WorkError::Cancelled);
                }
                let Some(piece) = pieces.get(step.piece) else { continue };
                let mut action = line(step, piece, "done");
                match take((self.agent, self.attempt), piece).await? {
                    // what others came to hold meanwhile, or did not let go of, does not come back with it
                    Ok(bytes) => {
                        action.bytes = bytes;
                        self.freed_bytes = self.freed_bytes.saturating_add(bytes);
                    }
                    Err(stays) => (action.state, action.reason) = ("stayed".to_owned(), stays),
                }
                self.attempt.progress.set(self.freed_bytes.min(self.need_bytes));
                self.actions.push(action);
            }
            if self.freed_bytes >= self.need_bytes || self.freed_bytes == before {
                break;
            }
        }
        Ok(())
    }
}

/// Takes one piece away: its bytes, or why it stays.
async fn take((agent, attempt): (&Agent, &Attempt), piece: &Piece) -> Result<Result<u64, String>, WorkError> {
    let held = &*piece.candidate.key;
    match &piece.place {
        Place::Ram => match agent.tier.evict_for(held, attempt.why(Reason::Optimized)).await {
            Ok(freed) => Ok(Ok(freed.0)),
            Err(ResidencyError::NotResident { .. }) => Ok(Ok(0)),
            Err(
                stays @ (ResidencyError::Leased { .. }
                | ResidencyError::Protected { .. }
                | ResidencyError::Loading { .. }),
            ) => Ok(Err(chain(&stays))),
            Err(error) => Err(error.into()),
        },
        Place::Device(id) => {
            let device = agent.devices.get(id).ok_or_else(|| WorkError::NoDevice(id.clone()))?;
            let Ok(component) = held.parse() else { return Ok(Ok(0)) };
            match evict::take(agent, device, component, attempt.why(Reason::Optimized), false).await {
                Ok(bytes) => Ok(Ok(bytes)),
                // a program attached to it since the plan was made
                Err(Refused::Runner(taken @ RunnerError::InUse { .. })) => Ok(Err(chain(&taken))),
                Err(Refused::Runner(error)) => Err(error.into()),
                Err(stays) => Ok(Err(chain(&stays))),
            }
        }
    }
}

fn line(step: &plan::Step, piece: &Piece, state: &str) -> OptimizeAction {
    let place = match &piece.place {
        Place::Ram => "ram".to_owned(),
        Place::Device(id) => id.clone(),
    };
    OptimizeAction {
        action: step.action.as_str().to_owned(),
        place,
        component: piece.component,
        name: None,
        bytes: step.bytes,
        reload_seconds: step.row.reload_seconds,
        score: step.row.score,
        state: state.to_owned(),
        reason: reason(step.action).to_owned(),
    }
}

fn reason(action: Action) -> &'static str {
    match action {
        Action::DropDuplicate => "the same component is there a second time",
        Action::Demote => "its copy in RAM stays, so having it back costs a copy and no read",
        Action::DropRamCopy => "a device has it; only another device or a program would have to read it again",
        Action::Evict => "least expected reload time for its bytes, of what may go",
    }
}

/// `model/kind` of what the catalogue knows.
async fn name_all(agent: &Agent, actions: &mut [OptimizeAction]) -> Result<(), WorkError> {
    let ids: Vec<ComponentId> = actions.iter().map(|action| action.component).collect();
    let mut names: BTreeMap<ComponentId, String> = BTreeMap::new();
    for owner in models::owners_of(&agent.pool, &ids).await? {
        names.entry(owner.id).or_insert_with(|| format!("{}/{}", owner.model_name, owner.kind));
    }
    for action in actions {
        action.name = names.get(&action.component).cloned();
    }
    Ok(())
}
