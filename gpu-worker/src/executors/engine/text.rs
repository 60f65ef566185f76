//! `encode_text`: prompts to states.

use std::{sync::Arc, time::Instant};

use shared::job::engine::{EncodeTextArgs, Role};

use super::{
    super::{Done, load::device_of},
    draft::Extras,
    ensemble::Ensemble,
    run::{self, Runs},
    site::Site,
};
use crate::{
    context::Agent,
    error::WorkError,
    runner::{TextWork, Work},
    running::Attempt,
};

/// Most chunks of a prompt when the request does not say.
pub(super) const CHUNKS: u32 = 64;

pub(in crate::executors) async fn encode(
    agent: &Arc<Agent>,
    args: EncodeTextArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let device = device_of(agent, attempt)?;
    let site = Site { agent, attempt, device };
    let extras = Extras { text_encoders: &args.text_encoders, ..Extras::loras(&args.loras) };
    let ensemble = Ensemble::ensure(site, args.model, Role::TextEncoders, extras).await?;
    let text = TextWork {
        prompts: args.prompts,
        negative: args.negative,
        clip_skip: args.clip_skip.unwrap_or_default(),
        weights: args.weights,
        max_chunks: args.max_chunks.unwrap_or(CHUNKS),
        outputs: args.outputs,
    };
    let work = Work::EncodeText { encoders: ensemble.encoders(), text };
    let runs = Runs { agent, attempt, device };
    let ran = runs.run(&work, &ensemble.run_parts(agent), Vec::new()).await?;
    Ok(run::done(device, ensemble.took(), ran, started))
}
