//! A ControlNet: the first half of a UNet, an encoder for the hint, and convolutions onto the skips.

use super::{Place, Weights, unet};
use crate::dev::sizes::UnetSize;

const IMAGE_CHANNELS: u64 = 3;

/// A ControlNet for this UNet, with these channels in the hint's encoder.
pub(in crate::dev) fn controlnet(key: &str, size: &UnetSize, hint: &[u64]) -> Weights {
    let mut weights = Weights::new(key);
    let root = Place::root();
    let skips = unet::encoder(&mut weights, size);
    let width = size.channels.first().copied().unwrap_or_default();
    hint_encoder(&mut weights, hint, width);
    for (index, &channels) in skips.iter().enumerate() {
        let place = root.at(format!("controlnet_down_blocks.{index}"), format!("zero_convs.{index}.0"));
        weights.conv(&place, channels, channels, 1);
    }
    let widest = size.channels.last().copied().unwrap_or_default();
    weights.conv(&root.at("controlnet_mid_block", "middle_block_out.0"), widest, widest, 1);
    weights
}

/// Convolutions by pairs, the second one halving the size; activations lie between the numbers.
fn hint_encoder(weights: &mut Weights, hint: &[u64], width: u64) {
    let place = Place::root().at("controlnet_cond_embedding", "input_hint_block");
    let narrow = hint.first().copied().unwrap_or_default();
    weights.conv(&place.at("conv_in", "0"), IMAGE_CHANNELS, narrow, 3);
    let steps = hint.iter().zip(hint.iter().skip(1)).flat_map(|(&from, &to)| [(from, from), (from, to)]);
    let mut number = 2;
    for (index, (inputs, outputs)) in steps.enumerate() {
        weights.conv(&place.at(format!("blocks.{index}"), number.to_string()), inputs, outputs, 3);
        number += 2;
    }
    let wide = hint.last().copied().unwrap_or_default();
    weights.conv(&place.at("conv_out", number.to_string()), wide, width, 3);
}
