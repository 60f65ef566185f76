//! The modules that a UNet is built of: resnets, transformers over the pixels, convolutions, upsampling.

use super::config::{Config, Level};
use crate::graph::{
    Attr, Graph, StorageTypes, V,
    layers::{
        add, concat, conv2d, geglu, gemm, gemm_as, group_norm, layer_norm, linear, multi_head_attention, reshape,
        reshape_as, reshape_to, shape_of, silu, transpose, unsqueeze,
    },
};

/// Epsilon of the group norm before a transformer, and of its layer norms: fixed in diffusers.
const TRANSFORMER_EPS: f32 = 1e-6;
const LAYER_EPS: f32 = 1e-5;

/// What the modules share.
pub(super) struct Blocks<'b, 's> {
    pub(super) g: &'b mut Graph<'s>,
    pub(super) storage: &'b dyn StorageTypes,
    pub(super) config: &'b Config,
    /// The embedded timestep, activated: [1 or batch, `time_width`].
    pub(super) time: V,
    /// `encoder_hidden_states`: [batch, tokens, context].
    pub(super) text: V,
}

impl Blocks<'_, '_> {
    /// A convolution that keeps the sides, or with a stride of 2 halves them (rounded up).
    pub(super) fn conv(&mut self, x: V, path: &str, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> V {
        conv2d(self.g, x, path, inputs, outputs, kernel, stride, kernel / 2)
    }

    pub(super) fn norm(&mut self, x: V, path: &str, channels: usize, eps: f32) -> V {
        group_norm(self.g, x, path, channels, self.config.norm_groups, eps)
    }

    /// The pixels of `like`, each the nearest of `x`: with odd sides that is not twice as many.
    pub(super) fn upsample(&mut self, x: V, like: V) -> V {
        let (channels, sides) = (shape_of(self.g, x, 0, 2), shape_of(self.g, like, 2, 4));
        let sides = concat(self.g, &[channels, sides], 0);
        let attrs = [
            Attr::Text("mode", "nearest"),
            Attr::Text("coordinate_transformation_mode", "asymmetric"),
            Attr::Text("nearest_mode", "floor"),
        ];
        self.g.op("Resize", "", &[x, V::NONE, V::NONE, sides], &attrs)
    }

    pub(super) fn resnet(&mut self, x: V, path: &str, inputs: usize, outputs: usize) -> V {
        let eps = self.config.norm_eps;
        let h = self.norm(x, &format!("{path}.norm1"), inputs, eps);
        let h = silu(self.g, h);
        let h = self.conv(h, &format!("{path}.conv1"), inputs, outputs, 3, 1);
        let time = gemm(self.g, self.time, &format!("{path}.time_emb_proj"), self.config.time_width, outputs, true);
        let time = unsqueeze(self.g, time, &[2, 3]);
        let h = add(self.g, h, time);
        let h = self.norm(h, &format!("{path}.norm2"), outputs, eps);
        let h = silu(self.g, h);
        let h = self.conv(h, &format!("{path}.conv2"), outputs, outputs, 3, 1);
        let x =
            if inputs == outputs { x } else { self.conv(x, &format!("{path}.conv_shortcut"), inputs, outputs, 1, 1) };
        add(self.g, x, h)
    }

    /// The transformer behind the resnet `layer` of a level, if there is one.
    pub(super) fn transformers(&mut self, x: V, path: &str, layer: usize, level: &Level, depths: &[usize]) -> V {
        match depths.get(layer) {
            Some(depth) if *depth > 0 => self.transformer(x, &format!("{path}.attentions.{layer}"), level, *depth),
            _ => x,
        }
    }

    fn transformer(&mut self, x: V, path: &str, level: &Level, depth: usize) -> V {
        let channels = level.channels;
        let normed = self.norm(x, &format!("{path}.norm"), channels, TRANSFORMER_EPS);
        let flat = reshape(self.g, normed, &[0, 0, -1]);
        let tokens = transpose(self.g, flat, &[0, 2, 1]);
        let mut tokens = self.projection(tokens, &format!("{path}.proj_in"), channels);
        for block in 0..depth {
            tokens = self.block(tokens, &format!("{path}.transformer_blocks.{block}"), level);
        }
        let tokens = self.projection(tokens, &format!("{path}.proj_out"), channels);
        let flat = transpose(self.g, tokens, &[0, 2, 1]);
        let image = reshape_as(self.g, flat, x);
        add(self.g, x, image)
    }

    /// A 1×1 convolution is the same matrix over the same pixels: both are read where they lie.
    fn projection(&mut self, tokens: V, path: &str, channels: usize) -> V {
        let name = format!("{path}.weight");
        let rank = self.storage.stored(&name).map(|(_, shape)| shape.len());
        if rank.map_or(self.config.has_linear_projection, |rank| rank == 2) {
            return linear(self.g, tokens, path, channels, channels, true);
        }
        let rows = reshape(self.g, tokens, &[-1, i64::try_from(channels).unwrap_or(i64::MAX)]);
        let rows = gemm_as(self.g, rows, path, &[channels, channels, 1, 1], (channels, channels), true);
        let sides = shape_of(self.g, tokens, 0, 3);
        reshape_to(self.g, rows, sides)
    }

    /// Attention among the pixels, attention to the text, and a gated layer; each behind a norm and added.
    fn block(&mut self, x: V, path: &str, level: &Level) -> V {
        let channels = level.channels;
        let normed = layer_norm(self.g, x, &format!("{path}.norm1"), channels, LAYER_EPS);
        let attended = self.attention(normed, normed, &format!("{path}.attn1"), level, channels);
        let x = add(self.g, x, attended);
        let normed = layer_norm(self.g, x, &format!("{path}.norm2"), channels, LAYER_EPS);
        let attended = self.attention(normed, self.text, &format!("{path}.attn2"), level, self.config.context);
        let x = add(self.g, x, attended);
        let normed = layer_norm(self.g, x, &format!("{path}.norm3"), channels, LAYER_EPS);
        let inner = channels.saturating_mul(4);
        let gated = geglu(self.g, normed, &format!("{path}.ff.net.0.proj"), channels, inner);
        let outer = linear(self.g, gated, &format!("{path}.ff.net.2"), inner, channels, true);
        add(self.g, x, outer)
    }

    fn attention(&mut self, x: V, source: V, path: &str, level: &Level, source_width: usize) -> V {
        let channels = level.channels;
        let q = linear(self.g, x, &format!("{path}.to_q"), channels, channels, false);
        let k = linear(self.g, source, &format!("{path}.to_k"), source_width, channels, false);
        let v = linear(self.g, source, &format!("{path}.to_v"), source_width, channels, false);
        let attended = multi_head_attention(self.g, q, k, v, level.heads, None);
        linear(self.g, attended, &format!("{path}.to_out.0"), channels, channels, true)
    }
}
