//! `encode_text`, and the text encoders of a model for whatever needs them.

use std::{sync::Arc, time::Instant};

use shared::job::engine::{EncodeTextArgs, Role};

use super::{
    super::{Done, load::device_of},
    run::{self, Runs},
    subject::Subject,
};
use crate::{
    context::Agent,
    error::WorkError,
    managers::tokenizer,
    runner::{EncoderFacts, TextWork, Work},
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
    let subject = Subject::ensure(agent, attempt, device, args.model, Role::TextEncoders).await?;
    let text = TextWork {
        prompts: args.prompts,
        negative: args.negative,
        clip_skip: args.clip_skip.unwrap_or_default(),
        weights: args.weights,
        max_chunks: args.max_chunks.unwrap_or(CHUNKS),
        outputs: args.outputs,
    };
    let work = Work::EncodeText { encoders: encoders(&subject), text };
    let runs = Runs { agent, attempt, device };
    let ran = runs.run(&work, &subject.run_parts(agent), Vec::new()).await?;
    Ok(run::done(device, &[&subject], ran, started))
}

/// A model's text encoders in order, each with its tokenizer.
pub(super) fn encoders(subject: &Subject) -> Vec<EncoderFacts> {
    let encoder = |kind| {
        let part = subject.part(kind)?;
        let tokenizer = tokenizer::find(subject.inspection(), kind, part.base.as_deref());
        Some(EncoderFacts { part, tokenizer })
    };
    ["text_encoder", "text_encoder_2", "text_encoder_3"].into_iter().filter_map(encoder).collect()
}
