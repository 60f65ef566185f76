//! What a pipeline's job changes about where it is applied, for the transaction that ends the job.

use serde_json::Value;
use shared::{
    ids::PipelineId,
    job::{ApplyPipelineArgs, RestorePipelineArgs},
};

use super::super::engine::Site;

/// A pipeline was applied to a device, or restored there.
#[derive(Debug, Clone)]
pub struct PipelineChange {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The device's id.
    pub device: String,
    /// Which of its declarations.
    pub generation: i64,
    /// It is applied; else it is gone.
    pub applied: bool,
    /// Deaths of the device's runner before the process that has it.
    pub runner_generation: i64,
    /// Seconds that the job took.
    pub seconds: f64,
    /// Bytes that were copied and computed.
    pub bytes: u64,
    /// What the job's result says.
    pub facts: Value,
}

impl PipelineChange {
    pub(super) fn applied(
        args: &ApplyPipelineArgs,
        site: Site<'_>,
        (seconds, bytes): (f64, u64),
        facts: Value,
    ) -> Self {
        Self {
            pipeline: args.pipeline,
            device: site.device.id.clone(),
            generation: args.generation,
            applied: true,
            runner_generation: runner_generation(site),
            seconds,
            bytes,
            facts,
        }
    }

    pub(super) fn restored(args: &RestorePipelineArgs, site: Site<'_>, seconds: f64, facts: Value) -> Self {
        Self {
            pipeline: args.pipeline,
            device: site.device.id.clone(),
            generation: args.generation,
            applied: false,
            runner_generation: runner_generation(site),
            seconds,
            bytes: 0,
            facts,
        }
    }
}

fn runner_generation(site: Site<'_>) -> i64 {
    i64::try_from(site.device.runner.status().borrow().restarts_total).unwrap_or(i64::MAX)
}
