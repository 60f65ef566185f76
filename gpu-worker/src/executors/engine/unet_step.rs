//! `unet_step`: one prediction of a UNet.

use std::{sync::Arc, time::Instant};

use shared::job::engine::{Role, UnetStepArgs};

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
    inputs,
    runner::{Blob, TENSORS, Work},
    running::Attempt,
};

pub(in crate::executors) async fn run(
    agent: &Arc<Agent>,
    args: UnetStepArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let device = device_of(agent, attempt)?;
    let site = Site { agent, attempt, device };
    let ensemble = Ensemble::ensure(site, args.model, Role::Unet, Extras::loras(&args.loras)).await?;
    // after the components: a load that waits holds no inputs
    let given = inputs::read(agent, &args.inputs).await?;
    let given = Blob { name: TENSORS.to_owned(), media_type: String::new(), bytes: given };
    let work = Work::UnetStep { unet: ensemble.first_part(&["unet"])?, guidance_scale: args.guidance_scale };
    let runs = Runs { agent, attempt, device };
    let ran = runs.run(&work, &ensemble.run_parts(agent), vec![given]).await?;
    Ok(run::done(device, ensemble.took(), ran, started))
}
