//! One executor per job kind. An executor does the work and says what to commit; it never writes its job's row.

mod benchmark;
mod blend;
mod bring;
mod cache_add;
mod cache_remove;
mod convert;
mod engine;
mod forward;
mod hash;
mod keep;
mod landed;
mod load;
mod lora_check;
mod metadata_write;
mod model;
mod optimize;
mod pipeline;
mod place;
mod scan;
mod turns;
mod unload;
mod validate;

pub use hash::{HashedPart, facts};
pub use pipeline::{PipelineChange, Recorded};

use std::sync::Arc;

use shared::job::JobSpec;

use crate::{commit::Effects, context::Agent, error::WorkError, running::Attempt};

/// Work that is done.
#[derive(Debug)]
pub struct Done {
    /// What the job shows as its result; an object.
    pub result: serde_json::Value,
    /// What else is committed with it.
    pub effects: Effects,
}

/// Runs one job. Stops soon after `attempt.cancel`.
///
/// # Errors
/// Why it failed; the code decides what follows.
pub async fn execute(agent: &Arc<Agent>, spec: JobSpec, attempt: &Attempt) -> Result<Done, WorkError> {
    match spec {
        JobSpec::Scan(args) => scan::run(agent, args, attempt).await,
        JobSpec::Load(args) => load::run(agent, args, attempt).await,
        JobSpec::Unload(args) => unload::run(agent, args, attempt).await,
        JobSpec::CacheAdd(args) => cache_add::run(agent, args, attempt).await,
        JobSpec::CacheRemove(args) => cache_remove::run(agent, args, attempt).await,
        JobSpec::CacheKeep(args) => keep::run(agent, args, attempt).await,
        JobSpec::Hash(args) => hash::run(agent, args, attempt).await,
        JobSpec::Validate(args) => validate::run(agent, args, attempt).await,
        JobSpec::MetadataWrite(args) => metadata_write::run(agent, args, attempt).await,
        JobSpec::Convert(args) => convert::run(agent, args, attempt).await,
        JobSpec::Optimize(args) => optimize::run(agent, args, attempt).await,
        JobSpec::VaeDecode(args) => engine::vae_decode(agent, args, attempt).await,
        JobSpec::VaeEncode(args) => engine::vae_encode(agent, args, attempt).await,
        JobSpec::EncodeText(args) => engine::encode_text(agent, args, attempt).await,
        JobSpec::UnetStep(args) => engine::unet_step(agent, args, attempt).await,
        JobSpec::Tokenize(args) => engine::tokenize(agent, args, attempt).await,
        JobSpec::Generate(args) => engine::generate(agent, args, attempt).await,
        JobSpec::Benchmark(args) => benchmark::run(agent, args, attempt).await,
        JobSpec::LoraCheck(args) => lora_check::run(agent, args, attempt).await,
        JobSpec::BlendLoras(args) => blend::run(agent, args, attempt).await,
        JobSpec::ApplyPipeline(args) => pipeline::apply(agent, args, attempt).await,
        JobSpec::RestorePipeline(args) => pipeline::restore(agent, args, attempt).await,
    }
}
