//! The tiny preview autoencoder: two rows of numbered layers.

use super::{Place, Stored, Weights};
use crate::dev::values::Fill;

const IMAGE_CHANNELS: u64 = 3;
const LATENT: u64 = 4;

/// The autoencoder; in the original layout as the bundle of both halves with its scale and shift.
pub(in crate::dev) fn taesd(key: &str, channels: u64) -> Weights {
    let mut weights = Weights::new(key);
    encoder(&mut weights, channels);
    decoder(&mut weights, channels);
    for (name, value) in [("vae_scale", 1.0), ("vae_shift", 0.0)] {
        let place = Place::root().both(name).only_original();
        weights.push(place, &[], Stored::Same, Fill::Exact(value));
    }
    weights
}

fn encoder(weights: &mut Weights, channels: u64) {
    let layer = |index: u64| Place::root().at(format!("encoder.layers.{index}"), format!("taesd_encoder.{index}"));
    weights.conv(&layer(0), IMAGE_CHANNELS, channels, 3);
    block(weights, &layer(1), channels);
    for down in [2, 6, 10] {
        weights.conv_no_bias(&layer(down), channels, channels, 3);
        (down + 1..down + 4).for_each(|index| block(weights, &layer(index), channels));
    }
    weights.conv(&layer(14), channels, LATENT, 3);
}

/// The original counts its clamp as layer 0, diffusers does not.
fn decoder(weights: &mut Weights, channels: u64) {
    let layer = |index: u64| {
        let diffusers = format!("decoder.layers.{}", index.saturating_sub(1));
        Place::root().at(diffusers, format!("taesd_decoder.{index}"))
    };
    weights.conv(&layer(1), LATENT, channels, 3);
    for first in [3, 8, 13] {
        (first..first + 3).for_each(|index| block(weights, &layer(index), channels));
        // after the three blocks and an upsampling without weights
        weights.conv_no_bias(&layer(first + 4), channels, channels, 3);
    }
    block(weights, &layer(18), channels);
    weights.conv(&layer(19), channels, IMAGE_CHANNELS, 3);
}

fn block(weights: &mut Weights, place: &Place, channels: u64) {
    for conv in ["conv.0", "conv.2", "conv.4"] {
        weights.conv(&place.both(conv), channels, channels, 3);
    }
}
