//! A UNet's smallest run: the fewest pixels that all its levels divide, one prompt.

use std::sync::Arc;

use super::{Component, ForwardReport, made, report};
use crate::{
    arch::unet2d::Config,
    error::EngineError,
    models::{Added, Conditions, Unet},
    runtime::{Control, Runtime},
    tensor::Tensor,
    weights::Weights,
};

/// Fewer pixels than this would leave a group norm of the lowest level with next to nothing.
const SMALLEST: usize = 8;
/// Tokens of one chunk of a prompt.
pub(crate) const TOKENS: usize = 77;
pub(crate) const TIMESTEP: f32 = 500.0;
/// Sizes and crop of a picture of 512 pixels; the refiner takes the first four and a score.
const SIZES: [f32; 6] = [512.0, 512.0, 0.0, 0.0, 512.0, 512.0];
const REFINER: [f32; 5] = [512.0, 512.0, 0.0, 0.0, 6.0];

pub(super) fn check(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    control: &Control,
) -> Result<ForwardReport, EngineError> {
    let unet = Unet::open(runtime, component, weights)?;
    let config = unet.config();
    let side = 1_usize.checked_shl(u32::try_from(config.levels.len().saturating_sub(1)).unwrap_or(u32::MAX));
    let side = side.unwrap_or(SMALLEST).max(SMALLEST);
    let given = Given::new(config, component.base, 1, (side, side))?;
    let prediction = unet.run(&given.sample, TIMESTEP, &given.conditions(), control)?;
    let mut inputs = vec![("sample", &given.sample), ("encoder_hidden_states", &given.states)];
    if let Some((text_embeds, time_ids)) = &given.added {
        inputs.extend([("text_embeds", text_embeds), ("time_ids", time_ids)]);
    }
    Ok(report("UNet2DConditionModel", &inputs, &[("out_sample", &prediction)]))
}

/// Inputs of a UNet that follow from their names.
pub(crate) struct Given {
    pub(crate) sample: Tensor,
    states: Tensor,
    added: Option<(Tensor, Tensor)>,
}

impl Given {
    /// For so many samples with so many latents from top to bottom and from left to right.
    pub(crate) fn new(
        config: &Config,
        base: Option<&str>,
        batch: usize,
        (height, width): (usize, usize),
    ) -> Result<Self, EngineError> {
        let sample = made("sample", &[batch, config.in_channels, height, width])?;
        let states = made("encoder_hidden_states", &[batch, TOKENS, config.context])?;
        Ok(Self { sample, states, added: added(config, base, batch)? })
    }

    pub(crate) fn conditions(&self) -> Conditions<'_> {
        let added = self.added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
        Conditions { encoder_hidden_states: &self.states, added }
    }
}

/// Pooled text and sizes, as many of each as the UNet's width for them leaves room for.
fn added(config: &Config, base: Option<&str>, batch: usize) -> Result<Option<(Tensor, Tensor)>, EngineError> {
    let Some(added) = config.added else { return Ok(None) };
    let sizes: &[f32] = if base == Some("sdxl-refiner") { &REFINER } else { &SIZES };
    let most = added.inputs.saturating_sub(1) / added.each.max(1);
    let sizes: Vec<f32> = sizes.iter().copied().take(most).collect();
    let text = added.inputs.saturating_sub(sizes.len().saturating_mul(added.each));
    let time_ids = Tensor::f32(&[batch, sizes.len()], sizes.repeat(batch))?;
    Ok(Some((made("text_embeds", &[batch, text])?, time_ids)))
}
