//! What a pipeline's job changes about where it is applied: recorded in the transaction that ends the job, and after it noted on
//! the device, so that both say the same.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use shared::{
    db::{
        DbError, Session,
        jobs::JobLease,
        pipelines::{self, AppliedMark, RestoredMark},
    },
    error::chain,
    ids::{ComponentId, JobId, PipelineId},
    job::{ApplyPipelineArgs, RestorePipelineArgs},
};

use super::{
    super::engine::{Ensemble, Site},
    apply,
    keeps::Keeps,
};
use crate::{
    context::{Agent, Device},
    managers::variants,
};

/// A pipeline was applied to a device, or restored there.
#[derive(Debug)]
pub struct PipelineChange {
    what: What,
    held: Mutex<Held>,
    device: String,
    seconds: f64,
    /// What the job's result says of it.
    facts: Value,
}

/// What is kept for the notes on the device.
#[derive(Debug)]
enum Held {
    /// All that was applied, in use until it is noted; nothing of a restoration.
    Applied(Option<Box<Ensemble>>),
    /// It is noted.
    Noted(Box<Noted>),
}

/// What the device's notes said before and say since.
#[derive(Debug, Default)]
struct Noted {
    /// The variants that the pipeline used before, and those that it uses since.
    before: BTreeSet<ComponentId>,
    now: BTreeSet<ComponentId>,
    /// What was said about keeping before, and what is said since.
    kept_before: Keeps,
    kept: Keeps,
}

impl Default for Held {
    fn default() -> Self {
        Self::Noted(Box::default())
    }
}

/// What the database says after a job of a pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recorded {
    /// Nothing: what was done is nobody's.
    #[default]
    Nothing,
    /// What the job did.
    Written,
    /// That it was done; a newer declaration is applied there.
    Older,
    /// Nobody wants the pipeline there any more.
    Unwanted,
}

#[derive(Debug)]
enum What {
    Applied {
        args: ApplyPipelineArgs,
        /// That were copied and computed.
        bytes: u64,
        /// Deaths of the device's runner before the process that has it.
        runner_generation: i64,
    },
    Restored(RestorePipelineArgs),
}

impl PipelineChange {
    /// Applied by the process that came after so many deaths.
    pub(super) fn applied(
        args: ApplyPipelineArgs,
        (site, deaths): (Site<'_>, u64),
        (seconds, bytes): (f64, u64),
        (facts, ensemble): (Value, Ensemble),
    ) -> Self {
        let runner_generation = i64::try_from(deaths).unwrap_or(i64::MAX);
        let held = Mutex::new(Held::Applied(Some(Box::new(ensemble))));
        Self { held, ..Self::of(What::Applied { args, bytes, runner_generation }, site, seconds, facts) }
    }

    pub(super) fn restored(args: RestorePipelineArgs, site: Site<'_>, seconds: f64, facts: Value) -> Self {
        Self::of(What::Restored(args), site, seconds, facts)
    }

    fn of(what: What, site: Site<'_>, seconds: f64, facts: Value) -> Self {
        Self { what, held: Mutex::new(Held::Applied(None)), device: site.device.id.clone(), seconds, facts }
    }

    fn pipeline(&self) -> (PipelineId, &str) {
        match &self.what {
            What::Applied { args, .. } => (args.pipeline, &args.name),
            What::Restored(args) => (args.pipeline, &args.name),
        }
    }

    /// Records it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn record(&self, agent: &Agent, tx: &mut Session, lease: JobLease) -> Result<Recorded, DbError> {
        let (job, device, seconds) = (lease.id, self.device.as_str(), self.seconds);
        match &self.what {
            What::Applied { args, bytes, runner_generation } => {
                let mark = AppliedMark {
                    job,
                    args,
                    device,
                    incarnation: agent.me,
                    runner_generation: *runner_generation,
                    facts: &self.facts,
                    seconds,
                    bytes: *bytes,
                };
                if !pipelines::mark_applied(&mut *tx, mark).await? {
                    return Ok(Recorded::Unwanted);
                }
                let row = pipelines::lock_device(tx, args.pipeline, device).await?;
                let there = row.and_then(|row| row.applied_generation);
                Ok(if there == Some(args.generation) { Recorded::Written } else { Recorded::Older })
            }
            What::Restored(args) => {
                pipelines::mark_restored(tx, RestoredMark { job, args, device, seconds }).await?;
                Ok(Recorded::Written)
            }
        }
    }

    /// The attempt's end is about to be committed: the device's notes say the same from here on.
    pub fn note(&self, agent: &Agent, recorded: Recorded) {
        let Some(device) = agent.devices.get(&self.device) else { return };
        let (pipeline, name) = self.pipeline();
        let mut held = self.held();
        if matches!(*held, Held::Noted(_)) {
            return;
        }
        let (before, kept_before) = (device.variants.uses_of(pipeline), Keeps::of(agent, device));
        let Held::Applied(ensemble) = std::mem::take(&mut *held) else { return };
        match (recorded, &self.what, ensemble) {
            (Recorded::Written, What::Applied { args, .. }, Some(ensemble)) => {
                apply::enact(agent, device, args, &ensemble)
            }
            (Recorded::Written | Recorded::Unwanted, ..) => {
                variants::use_for(device, (pipeline, name), &BTreeSet::new());
            }
            (Recorded::Older | Recorded::Nothing, ..) => {}
        }
        let (now, kept) = (device.variants.uses_of(pipeline), Keeps::of(agent, device));
        *held = Held::Noted(Box::new(Noted { before, now, kept_before, kept }));
    }

    /// The attempt's end was not taken: somebody else has the job, or an earlier try of the same end was recorded without an answer.
    /// What the database says decides whether the pipeline uses what it used before, and whether what is kept is what was kept before;
    /// while it says nothing, what is noted stays.
    pub async fn keep_if_recorded(&self, agent: &Agent, job: JobId) {
        let Held::Noted(noted) = std::mem::take(&mut *self.held()) else { return };
        let (pipeline, name) = self.pipeline();
        let Noted { before, now, kept_before, kept } = *noted;
        let device = agent.devices.get(&self.device);
        // what a later job noted is not touched
        let is_mine = |device: &&Device| device.variants.uses_of(pipeline) == now;
        let Some(device) = device.filter(is_mine).filter(|_| before != now || kept_before != kept) else { return };
        let take_back = || {
            let then = kept_before.before_noted(&kept, &Keeps::of(agent, device));
            variants::use_for(device, (pipeline, name), &before);
            then.say(agent, device);
        };
        match self.is_recorded(agent, job).await {
            Ok(Some(true)) => {}
            Ok(Some(false)) => take_back(),
            Ok(None) => {
                take_back();
                // and what the pipeline used before its removal loses the protection that it had for the pipeline's sake
                variants::use_for(device, (pipeline, name), &BTreeSet::new());
            }
            Err(error) => {
                tracing::warn!(pipeline = name, device = device.id, error = %chain(&error), "whether a pipeline's job was recorded is not known");
            }
        }
    }

    /// Whether the database says what this job did; none when the pipeline was removed.
    async fn is_recorded(&self, agent: &Agent, job: JobId) -> Result<Option<bool>, DbError> {
        let (pipeline, _) = self.pipeline();
        if pipelines::find(&agent.pool, &pipeline.to_string()).await?.is_none() {
            return Ok(None);
        }
        let applied = match &self.what {
            What::Applied { args, runner_generation, .. } => Some((args.generation, agent.me, *runner_generation)),
            What::Restored(_) => None,
        };
        pipelines::is_recorded(&agent.pool, (pipeline, &self.device), job, applied).await.map(Some)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
