//! Normalisations.

use super::{
    dense::side,
    shape::{add, mul, reshape, reshape_as},
};
use crate::graph::{Attr, Graph, Provider, V};

/// Normalises `groups` groups of channels of [batch, channels, height, width].
pub fn group_norm(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize, groups: usize, eps: f32) -> V {
    let flat = reshape(g, x, &[0, side(groups), -1]);
    let normal = match g.provider() {
        Provider::Cpu => rows_normalised(g, flat, eps),
        Provider::Cuda => instances_normalised(g, flat, groups, eps),
    };
    let normal = reshape_as(g, normal, x);
    let weight = g.weight_as(&format!("{prefix}.weight"), &[channels], &[channels, 1, 1]);
    let bias = g.weight_as(&format!("{prefix}.bias"), &[channels], &[channels, 1, 1]);
    let scaled = mul(g, normal, weight);
    add(g, scaled, bias)
}

/// The CPU's layer norm takes a scale of one element and is the fastest there, with the smallest error.
/// The CUDA provider answers such a scale with wrong values.
fn rows_normalised(g: &mut Graph<'_>, flat: V, eps: f32) -> V {
    let one = g.filled(1.0, &[1]);
    g.op("LayerNormalization", "", &[flat, one], &[Attr::Int("axis", -1), Attr::Float("epsilon", eps)])
}

fn instances_normalised(g: &mut Graph<'_>, flat: V, groups: usize, eps: f32) -> V {
    let (ones, zeros) = (g.filled(1.0, &[groups]), g.filled(0.0, &[groups]));
    g.op("InstanceNormalization", "", &[flat, ones, zeros], &[Attr::Float("epsilon", eps)])
}

/// Normalises the last axis.
pub fn layer_norm(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize, eps: f32) -> V {
    let weight = g.weight(&format!("{prefix}.weight"), &[channels]);
    let bias = g.weight(&format!("{prefix}.bias"), &[channels]);
    g.op("LayerNormalization", "", &[x, weight, bias], &[Attr::Int("axis", -1), Attr::Float("epsilon", eps)])
}
