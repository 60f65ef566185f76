//! The runs of each kind of component.

use std::{sync::Arc, time::Instant};

use super::{Amount, Measured};
use crate::{
    error::EngineError,
    forward::{Component, made, text_encoder, unet},
    models::{
        EncodeOptions, TextEncoder, Unet,
        vae::{Posterior, Vae, VaeSettings},
    },
    runtime::{Control, Runtime},
    tensor::Tensor,
    weights::Weights,
};

/// Pixels of a latent along a side, for UNets, whose config does not say.
const SCALE: usize = 8;

pub(super) fn vae_decode(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    model: (Weights, VaeSettings),
    amount: Amount,
    bound_bytes: Option<u64>,
    control: &Control,
) -> Result<Measured, EngineError> {
    let begun = Instant::now();
    let model = open_vae(runtime, component, model)?;
    let opening = begun.elapsed();
    let architecture = model.architecture();
    let (channels, scale) = (architecture.latent_channels(), architecture.scale().max(1));
    let latents = made("latents", &[amount.batch, channels, amount.height / scale, amount.width / scale])?;
    let begun = Instant::now();
    let done = model.decode(&latents, bound_bytes, control)?;
    let seconds = (opening + begun.elapsed()).as_secs_f64();
    Ok(Measured { seconds, peak_bytes: done.peak_bytes, estimated_bytes: Some(done.plan.estimated_bytes) })
}

pub(super) fn vae_encode(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    model: (Weights, VaeSettings),
    amount: Amount,
    bound_bytes: Option<u64>,
    control: &Control,
) -> Result<Measured, EngineError> {
    let begun = Instant::now();
    let model = open_vae(runtime, component, model)?;
    let opening = begun.elapsed();
    let image = made("image", &[amount.batch, model.architecture().in_channels(), amount.height, amount.width])?;
    let values = image.as_f32().unwrap_or_default().iter().map(|value| value.clamp(-1.0, 1.0)).collect();
    let image = Tensor::f32(&image.shape, values)?;
    let begun = Instant::now();
    let done = model.encode(&image, Posterior::Mode, bound_bytes, control)?;
    let seconds = (opening + begun.elapsed()).as_secs_f64();
    Ok(Measured { seconds, peak_bytes: done.peak_bytes, estimated_bytes: Some(done.plan.estimated_bytes) })
}

fn open_vae(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    (weights, settings): (Weights, VaeSettings),
) -> Result<Vae, EngineError> {
    // a VAE of unknown family runs as well as another: only what its latents are worth to a UNet is not known
    Ok(Vae::open(runtime, component, weights, settings)?.or_unscaled())
}

pub(super) fn encode_text(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    amount: Amount,
    bound_bytes: Option<u64>,
    control: &Control,
) -> Result<Measured, EngineError> {
    let begun = Instant::now();
    let encoder = TextEncoder::open(runtime, component, weights)?;
    let prompts = vec![text_encoder::prompt(encoder.config()); amount.batch];
    let options = EncodeOptions::for_base(component.base, 0);
    let options = EncodeOptions { skip: options.skip.min(encoder.config().layers), ..options };
    let needed_bytes = encoder.estimate(amount.batch);
    must_fit(needed_bytes, bound_bytes)?;
    let outcome = encoder.run_measured(&prompts, options, control)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Measured { seconds, peak_bytes: outcome.peak_bytes, estimated_bytes: Some(needed_bytes) })
}

pub(super) fn unet_step(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    amount: Amount,
    bound_bytes: Option<u64>,
    control: &Control,
) -> Result<Measured, EngineError> {
    let begun = Instant::now();
    let model = Unet::open(runtime, component, weights)?;
    let opening = begun.elapsed();
    let side = (amount.height / SCALE, amount.width / SCALE);
    let given = unet::Given::new(model.config(), component.base, amount.batch, side)?;
    let begun = Instant::now();
    let needed_bytes = model.estimate(&given.sample.shape, unet::TOKENS);
    must_fit(needed_bytes, bound_bytes)?;
    let outcome = model.run_measured(&given.sample, unet::TIMESTEP, &given.conditions(), control)?;
    let seconds = (opening + begun.elapsed()).as_secs_f64();
    Ok(Measured { seconds, peak_bytes: outcome.peak_bytes, estimated_bytes: Some(needed_bytes) })
}

fn must_fit(needed_bytes: u64, bound_bytes: Option<u64>) -> Result<(), EngineError> {
    match bound_bytes.filter(|bound| needed_bytes > *bound) {
        Some(available_bytes) => Err(EngineError::OutOfMemory { needed_bytes, available_bytes }),
        None => Ok(()),
    }
}
