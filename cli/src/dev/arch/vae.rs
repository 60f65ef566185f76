//! The VAE of the SD families, with 4 or 16 latent channels.

use super::{Place, Weights};
use crate::dev::sizes::VaeSize;

/// Resnets of an encoder level; a decoder level has one more.
const LAYERS: u64 = 2;
const IMAGE_CHANNELS: u64 = 3;

/// The whole VAE.
pub(in crate::dev) fn vae(key: &str, size: &VaeSize) -> Weights {
    let mut weights = Weights::new(key);
    let root = Place::root();
    encoder(&mut weights, &root.both("encoder"), size);
    decoder(&mut weights, &root.both("decoder"), size);
    if size.quant {
        weights.conv(&root.both("quant_conv"), size.latent * 2, size.latent * 2, 1);
        weights.conv(&root.both("post_quant_conv"), size.latent, size.latent, 1);
    }
    weights
}

fn encoder(weights: &mut Weights, place: &Place, size: &VaeSize) {
    let (narrow, wide) = ends(size);
    weights.conv(&place.both("conv_in"), IMAGE_CHANNELS, narrow, 3);
    let mut current = narrow;
    let last = size.channels.len().saturating_sub(1);
    for (index, &channels) in size.channels.iter().enumerate() {
        let level = place.at(format!("down_blocks.{index}"), format!("down.{index}"));
        for layer in 0..LAYERS {
            resnet(weights, &level.at(format!("resnets.{layer}"), format!("block.{layer}")), current, channels);
            current = channels;
        }
        if index < last {
            weights.conv(&level.at("downsamplers.0.conv", "downsample.conv"), channels, channels, 3);
        }
    }
    middle(weights, place, wide);
    weights.norm(&place.at("conv_norm_out", "norm_out"), wide);
    weights.conv(&place.both("conv_out"), wide, size.latent * 2, 3);
}

fn decoder(weights: &mut Weights, place: &Place, size: &VaeSize) {
    let (narrow, wide) = ends(size);
    weights.conv(&place.both("conv_in"), size.latent, wide, 3);
    middle(weights, place, wide);
    let mut current = wide;
    // the original layout counts the levels as the encoder does
    for (index, (original, &channels)) in size.channels.iter().enumerate().rev().enumerate() {
        let level = place.at(format!("up_blocks.{index}"), format!("up.{original}"));
        for layer in 0..=LAYERS {
            resnet(weights, &level.at(format!("resnets.{layer}"), format!("block.{layer}")), current, channels);
            current = channels;
        }
        if original > 0 {
            weights.conv(&level.at("upsamplers.0.conv", "upsample.conv"), channels, channels, 3);
        }
    }
    weights.norm(&place.at("conv_norm_out", "norm_out"), narrow);
    weights.conv(&place.both("conv_out"), narrow, IMAGE_CHANNELS, 3);
}

fn middle(weights: &mut Weights, place: &Place, channels: u64) {
    let place = place.at("mid_block", "mid");
    resnet(weights, &place.at("resnets.0", "block_1"), channels, channels);
    let attention = place.at("attentions.0", "attn_1");
    weights.norm(&attention.at("group_norm", "norm"), channels);
    for (diffusers, original) in [("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")] {
        weights.pointwise(&attention.at(diffusers, original), channels, channels);
    }
    resnet(weights, &place.at("resnets.1", "block_2"), channels, channels);
}

fn resnet(weights: &mut Weights, place: &Place, inputs: u64, outputs: u64) {
    weights.norm(&place.both("norm1"), inputs);
    weights.conv(&place.both("conv1"), inputs, outputs, 3);
    weights.norm(&place.both("norm2"), outputs);
    weights.conv(&place.both("conv2"), outputs, outputs, 3);
    if inputs != outputs {
        weights.conv(&place.at("conv_shortcut", "nin_shortcut"), inputs, outputs, 1);
    }
}

fn ends(size: &VaeSize) -> (u64, u64) {
    let end = |channels: Option<&u64>| channels.copied().unwrap_or_default();
    (end(size.channels.first()), end(size.channels.last()))
}
