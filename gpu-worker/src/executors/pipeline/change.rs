//! What a pipeline's job changes about where it is applied: recorded in the transaction that ends the job.

use serde_json::Value;
use shared::{
    db::{
        DbError, Session,
        jobs::JobLease,
        pipelines::{self, AppliedMark, RestoredMark},
    },
    ids::PipelineId,
    job::{ApplyPipelineArgs, RestorePipelineArgs},
};

use super::super::engine::Site;
use crate::{context::Agent, managers::variants};

/// A pipeline was applied to a device, or restored there.
#[derive(Debug, Clone)]
pub struct PipelineChange {
    what: What,
    device: String,
    seconds: f64,
    /// What the job's result says of it.
    facts: Value,
}

#[derive(Debug, Clone)]
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
        facts: Value,
    ) -> Self {
        let runner_generation = i64::try_from(deaths).unwrap_or(i64::MAX);
        Self::of(What::Applied { args, bytes, runner_generation }, site, seconds, facts)
    }

    pub(super) fn restored(args: RestorePipelineArgs, site: Site<'_>, seconds: f64, facts: Value) -> Self {
        Self::of(What::Restored(args), site, seconds, facts)
    }

    fn of(what: What, site: Site<'_>, seconds: f64, facts: Value) -> Self {
        Self { what, device: site.device.id.clone(), seconds, facts }
    }

    fn pipeline(&self) -> (PipelineId, &str) {
        match &self.what {
            What::Applied { args, .. } => (args.pipeline, &args.name),
            What::Restored(args) => (args.pipeline, &args.name),
        }
    }

    /// Records it; false when it was applied and nobody wants it there any more.
    ///
    /// # Errors
    /// Database errors.
    pub async fn record(&self, agent: &Agent, tx: &mut Session, lease: JobLease) -> Result<bool, DbError> {
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
                pipelines::mark_applied(tx, mark).await
            }
            What::Restored(args) => {
                pipelines::mark_restored(tx, RestoredMark { job, args, device, seconds }).await.map(|()| true)
            }
        }
    }

    /// Nobody wants it there any more, or wrong weights made it: its variants are nobody's, and go by the policy.
    pub fn let_go(&self, agent: &Agent) {
        let (pipeline, name) = self.pipeline();
        if let Some(device) = agent.devices.get(&self.device) {
            variants::use_for(device, (pipeline, name), &Default::default());
        }
    }
}
