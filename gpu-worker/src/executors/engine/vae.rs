//! `vae_decode` and `vae_encode`.

use std::{sync::Arc, time::Instant};

use shared::job::engine::{Role, VaeDecodeArgs, VaeEncodeArgs};

use super::{
    super::{Done, load::device_of},
    run::{self, Runs},
    subject::Subject,
};
use crate::{
    context::Agent,
    error::WorkError,
    inputs,
    runner::{Blob, IMAGE, TENSORS, Work},
    running::Attempt,
};

/// The components that decode, the first that a model has.
pub(super) const DECODERS: [&str; 2] = ["vae", "vae_decoder"];
const ENCODERS: [&str; 2] = ["vae", "vae_encoder"];

pub(in crate::executors) async fn decode(
    agent: &Arc<Agent>,
    args: VaeDecodeArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let device = device_of(agent, attempt)?;
    let subject = Subject::ensure(agent, attempt, device, args.model, Role::VaeDecoder).await?;
    // after the components: a load that waits holds no inputs
    let latents = inputs::read(agent, &args.latents).await?;
    let latents = Blob { name: TENSORS.to_owned(), media_type: String::new(), bytes: latents };
    let vae = subject.first_part(&DECODERS)?;
    let limit_bytes = agent.artifact_limit.0;
    let work = Work::VaeDecode { vae, settings: args.settings, format: args.format, limit_bytes };
    let runs = Runs { agent, attempt, device };
    let ran = runs.run(&work, &subject.run_parts(agent), vec![latents]).await?;
    Ok(run::done(device, subject.took(), ran, started))
}

pub(in crate::executors) async fn encode(
    agent: &Arc<Agent>,
    args: VaeEncodeArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let device = device_of(agent, attempt)?;
    let subject = Subject::ensure(agent, attempt, device, args.model, Role::VaeEncoder).await?;
    let image = inputs::read(agent, &args.image).await?;
    let image = Blob { name: IMAGE.to_owned(), media_type: String::new(), bytes: image };
    let vae = subject.first_part(&ENCODERS)?;
    let seed = args.seed.unwrap_or_default();
    let work = Work::VaeEncode { vae, settings: args.settings, sample: args.sample, seed };
    let runs = Runs { agent, attempt, device };
    let ran = runs.run(&work, &subject.run_parts(agent), vec![image]).await?;
    Ok(run::done(device, subject.took(), ran, started))
}
