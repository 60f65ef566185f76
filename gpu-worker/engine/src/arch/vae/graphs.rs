//! The graphs of the two halves.

use super::{
    blocks::{downsample, middle, normed, resnet, upsample},
    config::Config,
};
use crate::{
    error::EngineError,
    graph::{Emitted, Graph, Provider, StorageTypes, layers::conv2d},
    tensor::ElementType,
    weights::TensorFacts,
};

/// `latents` [batch, latent channels, h, w] (unscaled) → `sample` [batch, channels, h·scale, w·scale] in −1..1.
///
/// # Errors
/// When the weights do not fit the config.
pub fn decoder(
    config: &Config,
    provider: Provider,
    compute: ElementType,
    storage: &dyn StorageTypes,
) -> Result<Emitted, EngineError> {
    let mut g = Graph::new("vae_decoder", provider, storage);
    g.set_compute(compute);
    decode(&mut g, config);
    g.finish()
}

fn decode(g: &mut Graph<'_>, config: &Config) {
    let groups = config.norm_num_groups;
    let mut x = g.image_input("latents", config.latent_channels);
    if config.use_post_quant_conv {
        x = conv2d(g, x, "post_quant_conv", config.latent_channels, config.latent_channels, 1, 1, 0);
    }
    let mut current = config.block_out_channels.last().copied().unwrap_or(0);
    x = conv2d(g, x, "decoder.conv_in", config.latent_channels, current, 3, 1, 1);
    x = middle(g, x, "decoder.mid_block", current, groups, config.mid_block_add_attention);
    let last = config.block_out_channels.len().saturating_sub(1);
    for (level, channels) in config.block_out_channels.iter().copied().rev().enumerate() {
        let prefix = format!("decoder.up_blocks.{level}");
        for layer in 0..=config.layers_per_block {
            x = resnet(g, x, &format!("{prefix}.resnets.{layer}"), (current, channels), groups);
            current = channels;
        }
        if level < last {
            x = upsample(g, x, &format!("{prefix}.upsamplers.0.conv"), channels);
        }
    }
    x = normed(g, x, "decoder.conv_norm_out", current, groups);
    x = conv2d(g, x, "decoder.conv_out", current, config.out_channels, 3, 1, 1);
    g.output("sample", x);
}

/// `sample` [batch, channels, h, w] in −1..1 → `moments` [batch, 2 · latent channels, h/scale, w/scale]: mean and
/// logarithm of the variance.
///
/// # Errors
/// When the weights do not fit the config.
pub fn encoder(
    config: &Config,
    provider: Provider,
    compute: ElementType,
    storage: &dyn StorageTypes,
) -> Result<Emitted, EngineError> {
    let mut g = Graph::new("vae_encoder", provider, storage);
    g.set_compute(compute);
    encode(&mut g, config);
    g.finish()
}

fn encode(g: &mut Graph<'_>, config: &Config) {
    let groups = config.norm_num_groups;
    let mut x = g.image_input("sample", config.in_channels);
    let mut current = config.block_out_channels.first().copied().unwrap_or(0);
    x = conv2d(g, x, "encoder.conv_in", config.in_channels, current, 3, 1, 1);
    let last = config.block_out_channels.len().saturating_sub(1);
    for (level, channels) in config.block_out_channels.iter().copied().enumerate() {
        let prefix = format!("encoder.down_blocks.{level}");
        for layer in 0..config.layers_per_block {
            x = resnet(g, x, &format!("{prefix}.resnets.{layer}"), (current, channels), groups);
            current = channels;
        }
        if level < last {
            x = downsample(g, x, &format!("{prefix}.downsamplers.0.conv"), channels);
        }
    }
    x = middle(g, x, "encoder.mid_block", current, groups, config.mid_block_add_attention);
    x = normed(g, x, "encoder.conv_norm_out", current, groups);
    let moments = config.latent_channels.saturating_mul(2);
    x = conv2d(g, x, "encoder.conv_out", current, moments, 3, 1, 1);
    if config.use_quant_conv {
        x = conv2d(g, x, "quant_conv", moments, moments, 1, 1, 0);
    }
    g.output("moments", x);
}

/// Names and shapes of the tensors that both halves have.
#[must_use]
pub fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let nothing = TensorFacts::default();
    let mut g = Graph::new("vae", Provider::Cpu, &nothing);
    encode(&mut g, config);
    decode(&mut g, config);
    g.slots().iter().map(|slot| (slot.name.clone(), slot.stored.clone())).collect()
}
