//! The graphs of the two halves.

use super::config::{Config, Half, NAME};
use crate::{
    error::EngineError,
    graph::{
        Emitted, Graph, Provider, StorageTypes, V,
        layers::{add, conv2d, conv2d_padded, mul, upsample2x},
    },
    tensor::ElementType,
};

/// `latents` [batch, latent channels, h, w] → `sample` [batch, channels, h·scale, w·scale] in −1..1.
///
/// # Errors
/// When the weights do not fit the config.
pub fn decoder(
    config: &Config,
    provider: Provider,
    compute: ElementType,
    storage: &dyn StorageTypes,
) -> Result<Emitted, EngineError> {
    let half = config.decoder.as_ref().ok_or_else(|| absent("decoder"))?;
    let mut g = Graph::new("tiny_decoder", provider, storage);
    g.set_compute(compute);
    let x = g.image_input("latents", config.latent_channels);
    let x = clamped(&mut g, x);
    let mut current = half.channels.first().copied().unwrap_or(0);
    let x = conv2d(&mut g, x, "decoder.layers.0", config.latent_channels, current, 3, 1, 1);
    let mut x = relu(&mut g, x);
    let mut layer = 2;
    let last = half.blocks.len().saturating_sub(1);
    for (level, (blocks, channels)) in levels(half).enumerate() {
        for _ in 0..blocks {
            x = block(&mut g, x, &format!("decoder.layers.{layer}"), current);
            layer += 1;
        }
        if level < last {
            x = upsample2x(&mut g, x);
            layer += 1;
        }
        let outputs = if level < last { channels } else { config.out_channels };
        // only the last one has a bias
        let path = format!("decoder.layers.{layer}");
        x = conv2d_padded(&mut g, x, &path, (current, outputs), (3, 1), [1; 4], level == last);
        (current, layer) = (outputs, layer + 1);
    }
    // its image is 0..1
    let (two, one) = (g.scalar(2.0), g.scalar(-1.0));
    let x = mul(&mut g, x, two);
    let x = add(&mut g, x, one);
    g.output("sample", x);
    g.finish()
}

/// `sample` [batch, channels, h, w] in −1..1 → `latents` [batch, latent channels, h/scale, w/scale].
///
/// # Errors
/// When the weights do not fit the config.
pub fn encoder(
    config: &Config,
    provider: Provider,
    compute: ElementType,
    storage: &dyn StorageTypes,
) -> Result<Emitted, EngineError> {
    let half = config.encoder.as_ref().ok_or_else(|| absent("encoder"))?;
    let mut g = Graph::new("tiny_encoder", provider, storage);
    g.set_compute(compute);
    let x = g.image_input("sample", config.in_channels);
    let (one, half_of) = (g.scalar(1.0), g.scalar(0.5));
    let x = add(&mut g, x, one);
    let mut x = mul(&mut g, x, half_of);
    let (mut current, mut layer) = (config.in_channels, 0);
    for (level, (blocks, channels)) in levels(half).enumerate() {
        // the first one keeps the size and has a bias, the others halve it and have none
        let (stride, is_first) = (if level == 0 { 1 } else { 2 }, level == 0);
        let path = format!("encoder.layers.{layer}");
        x = conv2d_padded(&mut g, x, &path, (current, channels), (3, stride), [1; 4], is_first);
        (current, layer) = (channels, layer + 1);
        for _ in 0..blocks {
            x = block(&mut g, x, &format!("encoder.layers.{layer}"), current);
            layer += 1;
        }
    }
    x = conv2d(&mut g, x, &format!("encoder.layers.{layer}"), current, config.latent_channels, 3, 1, 1);
    g.output("latents", x);
    g.finish()
}

fn levels(half: &Half) -> impl Iterator<Item = (usize, usize)> {
    half.blocks.iter().copied().zip(half.channels.iter().copied())
}

fn absent(half: &str) -> EngineError {
    let first = format!("{half}.layers.0.weight");
    EngineError::MissingWeights { architecture: NAME.to_owned(), count: 1, first }
}

/// Three convolutions around a shortcut.
fn block(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize) -> V {
    let mut h = x;
    for part in [0, 2, 4] {
        h = conv2d(g, h, &format!("{prefix}.conv.{part}"), channels, channels, 3, 1, 1);
        if part < 4 {
            h = relu(g, h);
        }
    }
    let sum = add(g, h, x);
    relu(g, sum)
}

fn relu(g: &mut Graph<'_>, x: V) -> V {
    g.op("Relu", "", &[x], &[])
}

/// Latents far outside are drawn in smoothly: 3 · tanh(x / 3).
fn clamped(g: &mut Graph<'_>, x: V) -> V {
    let (third, three) = (g.scalar(1.0 / 3.0), g.scalar(3.0));
    let x = mul(g, x, third);
    let x = g.op("Tanh", "", &[x], &[]);
    mul(g, x, three)
}
