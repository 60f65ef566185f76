//! The blocks of both halves.

use crate::graph::{
    Graph, V,
    layers::{
        add, conv2d, conv2d_padded, group_norm, linear, multi_head_attention, reshape, reshape_as, silu, transpose,
        upsample2x,
    },
};

/// Of every norm of this architecture.
pub(super) const EPS: f32 = 1e-6;

/// Two convolutions around a shortcut.
pub(super) fn resnet(g: &mut Graph<'_>, x: V, prefix: &str, (inputs, outputs): (usize, usize), groups: usize) -> V {
    let h = normed(g, x, &format!("{prefix}.norm1"), inputs, groups);
    let h = conv2d(g, h, &format!("{prefix}.conv1"), inputs, outputs, 3, 1, 1);
    let h = normed(g, h, &format!("{prefix}.norm2"), outputs, groups);
    let h = conv2d(g, h, &format!("{prefix}.conv2"), outputs, outputs, 3, 1, 1);
    let shortcut =
        if inputs == outputs { x } else { conv2d(g, x, &format!("{prefix}.conv_shortcut"), inputs, outputs, 1, 1, 0) };
    add(g, shortcut, h)
}

/// Group norm and SiLU.
pub(super) fn normed(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize, groups: usize) -> V {
    let x = group_norm(g, x, prefix, channels, groups, EPS);
    silu(g, x)
}

/// The block at the smallest size.
pub(super) fn middle(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize, groups: usize, has_attention: bool) -> V {
    let x = resnet(g, x, &format!("{prefix}.resnets.0"), (channels, channels), groups);
    let x = if has_attention { attention(g, x, &format!("{prefix}.attentions.0"), channels, groups) } else { x };
    resnet(g, x, &format!("{prefix}.resnets.1"), (channels, channels), groups)
}

/// Self-attention of all pixels, one head as wide as the block.
fn attention(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize, groups: usize) -> V {
    let h = group_norm(g, x, &format!("{prefix}.group_norm"), channels, groups, EPS);
    let h = reshape(g, h, &[0, i64::try_from(channels).unwrap_or(i64::MAX), -1]);
    let h = transpose(g, h, &[0, 2, 1]);
    let [q, k, v] = ["to_q", "to_k", "to_v"].map(|part| format!("{prefix}.{part}"));
    let q = linear(g, h, &q, channels, channels, true);
    let k = linear(g, h, &k, channels, channels, true);
    let v = linear(g, h, &v, channels, channels, true);
    let h = multi_head_attention(g, q, k, v, 1, None);
    let h = linear(g, h, &format!("{prefix}.to_out.0"), channels, channels, true);
    let h = transpose(g, h, &[0, 2, 1]);
    let h = reshape_as(g, h, x);
    add(g, x, h)
}

/// Half the height and width; torch pads right and bottom only.
pub(super) fn downsample(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize) -> V {
    conv2d_padded(g, x, prefix, (channels, channels), (3, 2), [0, 0, 1, 1], true)
}

/// Twice the height and width.
pub(super) fn upsample(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize) -> V {
    let x = upsample2x(g, x);
    conv2d(g, x, prefix, channels, channels, 3, 1, 1)
}
