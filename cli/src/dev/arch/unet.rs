//! The UNet of SD 1.x, SD 2.x, SDXL and its refiner.

use super::{Place, Stored, Weights};
use crate::dev::sizes::UnetSize;

/// Channels of the latents that go in and of the prediction that comes out.
pub(super) const LATENT: u64 = 4;

/// The whole UNet.
pub(in crate::dev) fn unet(key: &str, size: &UnetSize) -> Weights {
    let mut weights = Weights::new(key);
    let root = Place::root();
    let mut skips = encoder(&mut weights, size);
    decoder(&mut weights, &root, size, &mut skips);
    let width = first(size);
    weights.norm(&root.at("conv_norm_out", "out.0"), width);
    weights.conv(&root.at("conv_out", "out.2"), width, LATENT, 3);
    weights
}

/// The first half with the middle, which ControlNets have too; the channels of its skip connections.
pub(super) fn encoder(weights: &mut Weights, size: &UnetSize) -> Vec<u64> {
    let (root, width) = (Place::root(), first(size));
    weights.conv(&root.at("conv_in", "input_blocks.0.0"), LATENT, width, 3);
    weights.linear(&root.at("time_embedding.linear_1", "time_embed.0"), width, width * 4);
    weights.linear(&root.at("time_embedding.linear_2", "time_embed.2"), width * 4, width * 4);
    if let Some((inputs, _)) = size.added {
        weights.linear(&root.at("add_embedding.linear_1", "label_emb.0.0"), inputs, width * 4);
        weights.linear(&root.at("add_embedding.linear_2", "label_emb.0.2"), width * 4, width * 4);
    }
    let skips = down(weights, &root, size);
    middle(weights, &root, size);
    skips
}

fn down(weights: &mut Weights, root: &Place, size: &UnetSize) -> Vec<u64> {
    let mut skips = vec![first(size)];
    let mut current = first(size);
    let last = size.channels.len().saturating_sub(1);
    let mut block = 1;
    for (level, (&channels, &depth)) in size.channels.iter().zip(&size.depth).enumerate() {
        for layer in 0..size.layers {
            let (resnets, attentions) = (format!("resnets.{layer}"), format!("attentions.{layer}"));
            let level = root.at(format!("down_blocks.{level}"), format!("input_blocks.{block}"));
            resnet(weights, &level.at(resnets, "0"), current, channels, size);
            attention(weights, &level.at(attentions, "1"), channels, depth, size);
            (current, block) = (channels, block + 1);
            skips.push(channels);
        }
        if level < last {
            let place =
                root.at(format!("down_blocks.{level}.downsamplers.0.conv"), format!("input_blocks.{block}.0.op"));
            weights.conv(&place, channels, channels, 3);
            skips.push(channels);
            block += 1;
        }
    }
    skips
}

fn middle(weights: &mut Weights, root: &Place, size: &UnetSize) {
    let place = root.at("mid_block", "middle_block");
    let channels = size.channels.last().copied().unwrap_or_default();
    resnet(weights, &place.at("resnets.0", "0"), channels, channels, size);
    attention(weights, &place.at("attentions.0", "1"), channels, size.mid_depth, size);
    resnet(weights, &place.at("resnets.1", "2"), channels, channels, size);
}

fn decoder(weights: &mut Weights, root: &Place, size: &UnetSize, skips: &mut Vec<u64>) {
    let mut current = size.channels.last().copied().unwrap_or_default();
    let last = size.channels.len().saturating_sub(1);
    let mut block = 0;
    for (level, (&channels, &depth)) in size.channels.iter().zip(&size.depth).rev().enumerate() {
        for layer in 0..=size.layers {
            let (resnets, attentions) = (format!("resnets.{layer}"), format!("attentions.{layer}"));
            let place = root.at(format!("up_blocks.{level}"), format!("output_blocks.{block}"));
            let inputs = current + skips.pop().unwrap_or_default();
            resnet(weights, &place.at(resnets, "0"), inputs, channels, size);
            attention(weights, &place.at(attentions, "1"), channels, depth, size);
            if layer == size.layers && level < last {
                let slot = if depth > 0 { "2.conv" } else { "1.conv" };
                weights.conv(&place.at("upsamplers.0.conv", slot), channels, channels, 3);
            }
            (current, block) = (channels, block + 1);
        }
    }
}

fn resnet(weights: &mut Weights, place: &Place, inputs: u64, outputs: u64, size: &UnetSize) {
    weights.norm(&place.at("norm1", "in_layers.0"), inputs);
    weights.conv(&place.at("conv1", "in_layers.2"), inputs, outputs, 3);
    weights.linear(&place.at("time_emb_proj", "emb_layers.1"), first(size) * 4, outputs);
    weights.norm(&place.at("norm2", "out_layers.0"), outputs);
    weights.conv(&place.at("conv2", "out_layers.3"), outputs, outputs, 3);
    if inputs != outputs {
        weights.conv(&place.at("conv_shortcut", "skip_connection"), inputs, outputs, 1);
    }
}

/// Attention over text, named alike in both layouts; nothing where there are no transformer blocks.
fn attention(weights: &mut Weights, place: &Place, channels: u64, depth: u64, size: &UnetSize) {
    if depth == 0 {
        return;
    }
    weights.norm(&place.both("norm"), channels);
    projection(weights, &place.both("proj_in"), channels, size);
    for index in 0..depth {
        transformer(weights, &place.both(format!("transformer_blocks.{index}")), channels, size.context);
    }
    projection(weights, &place.both("proj_out"), channels, size);
}

fn projection(weights: &mut Weights, place: &Place, channels: u64, size: &UnetSize) {
    let shape = [channels, channels, 1, 1];
    let rank = if size.linear_projection { 2 } else { 4 };
    weights.matrix(place, shape.get(..rank).unwrap_or_default(), Stored::Same);
    weights.bias(place, channels);
}

fn transformer(weights: &mut Weights, place: &Place, channels: u64, context: u64) {
    for (name, source) in [("attn1", channels), ("attn2", context)] {
        let attention = place.both(name);
        weights.linear_no_bias(&attention.both("to_q"), channels, channels);
        weights.linear_no_bias(&attention.both("to_k"), source, channels);
        weights.linear_no_bias(&attention.both("to_v"), source, channels);
        weights.linear(&attention.both("to_out.0"), channels, channels);
    }
    for name in ["norm1", "norm2", "norm3"] {
        weights.norm(&place.both(name), channels);
    }
    // value and gate side by side
    weights.linear(&place.both("ff.net.0.proj"), channels, channels * 8);
    weights.linear(&place.both("ff.net.2"), channels * 4, channels);
}

fn first(size: &UnetSize) -> u64 {
    size.channels.first().copied().unwrap_or_default()
}
