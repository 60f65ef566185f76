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
const TOKENS: usize = 77;
const TIMESTEP: f32 = 500.0;
/// Sizes and crop of a picture of 512 pixels; the refiner takes the first four and a score.
const SIZES: [f32; 6] = [512.0, 512.0, 0.0, 0.0, 512.0, 512.0];
const REFINER: [f32; 5] = [512.0, 512.0, 0.0, 0.0, 6.0];

pub(super) fn check(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    control: &Control,
) -> Result<ForwardReport, EngineError> {
    let config = Config::read(component.config, &weights.facts(), component.base)?;
    let side = 1_usize.checked_shl(u32::try_from(config.levels.len().saturating_sub(1)).unwrap_or(u32::MAX));
    let side = side.unwrap_or(SMALLEST).max(SMALLEST);
    let sample = made("sample", &[1, config.in_channels, side, side])?;
    let states = made("encoder_hidden_states", &[1, TOKENS, config.context])?;
    let added = added(&config, component.base)?;
    let unet = Unet::new(runtime, config, weights)?;
    let given = added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
    let conditions = Conditions { encoder_hidden_states: &states, added: given };
    let prediction = unet.run(&sample, TIMESTEP, &conditions, control)?;
    let mut inputs = vec![("sample", &sample), ("encoder_hidden_states", &states)];
    if let Some((text_embeds, time_ids)) = &added {
        inputs.extend([("text_embeds", text_embeds), ("time_ids", time_ids)]);
    }
    Ok(report("UNet2DConditionModel", &inputs, &[("out_sample", &prediction)]))
}

/// Pooled text and sizes, as many of each as the UNet's width for them leaves room for.
fn added(config: &Config, base: Option<&str>) -> Result<Option<(Tensor, Tensor)>, EngineError> {
    let Some(added) = config.added else { return Ok(None) };
    let sizes: &[f32] = if base == Some("sdxl-refiner") { &REFINER } else { &SIZES };
    let most = added.inputs.saturating_sub(1) / added.each.max(1);
    let sizes: Vec<f32> = sizes.iter().copied().take(most).collect();
    let text = added.inputs.saturating_sub(sizes.len().saturating_mul(added.each));
    let time_ids = Tensor::f32(&[1, sizes.len()], sizes)?;
    Ok(Some((made("text_embeds", &[1, text])?, time_ids)))
}
