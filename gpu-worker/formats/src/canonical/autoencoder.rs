//! The VAE: LDM names with the decoder's levels counted from the other end, and the names that the attention of
//! old diffusers versions has.

use super::{Naming, place::Place};
use crate::inspection::TensorFacts;

/// The attention in LDM's, old diffusers' and today's names.
const ATTENTION: &[(&str, &str, &str)] =
    &[("q", "query", "to_q"), ("k", "key", "to_k"), ("v", "value", "to_v"), ("proj_out", "proj_attn", "to_out.0")];
const ATTENTION_PATH: &str = "mid_block.attentions.0.";

/// The original naming.
#[derive(Debug)]
pub(super) struct Ldm {
    /// Levels of the decoder.
    levels: u64,
}

impl Ldm {
    pub(super) fn new(names: &[&str]) -> Self {
        let level = |name: &&str| name.strip_prefix("decoder.up.")?.split('.').next()?.parse::<u64>().ok();
        let last = names.iter().filter_map(level).max();
        Self { levels: last.map_or(0, |last| last.saturating_add(1)) }
    }

    fn half(&self, half: &str, rest: &str) -> Option<String> {
        let (module, leaf) = rest.rsplit_once('.')?;
        let path = match module {
            "conv_in" | "conv_out" => module.to_owned(),
            "norm_out" => "conv_norm_out".to_owned(),
            module => self.level(half, module)?,
        };
        Some(format!("{half}.{path}.{leaf}"))
    }

    fn level(&self, half: &str, module: &str) -> Option<String> {
        let mut parts = module.splitn(2, '.');
        let (row, rest) = (parts.next()?, parts.next()?);
        match (half, row) {
            (_, "mid") => middle(rest),
            ("encoder", "down") => {
                let (level, rest) = rest.split_once('.')?;
                let level: u64 = level.parse().ok()?;
                Some(format!("down_blocks.{level}.{}", block(rest, "downsample")?))
            }
            ("decoder", "up") => {
                let (level, rest) = rest.split_once('.')?;
                let level = self.levels.checked_sub(1)?.checked_sub(level.parse().ok()?)?;
                Some(format!("up_blocks.{level}.{}", block(rest, "upsample")?))
            }
            _ => None,
        }
    }
}

impl Naming for Ldm {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
            return Some(Place::same(name));
        }
        if name.starts_with("model_ema.") || name.starts_with("loss.") {
            return Some(Place::Ignored);
        }
        let (half, rest) = name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
        self.half(half, rest).map(place)
    }
}

/// Names of diffusers, of any version.
pub(super) struct Diffusers;

impl Naming for Diffusers {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        Some(place(modern(name).unwrap_or_else(|| name.to_owned())))
    }
}

/// Attention matrices are linear, however they are stored.
fn place(name: String) -> Place {
    let is_matrix = name.contains(ATTENTION_PATH) && name.ends_with(".weight") && !name.ends_with("group_norm.weight");
    if is_matrix { Place::Matrix(name) } else { Place::Same(name) }
}

fn modern(name: &str) -> Option<String> {
    let (half, rest) = name.split_once(ATTENTION_PATH)?;
    let (module, leaf) = rest.rsplit_once('.')?;
    let (_, _, new) = ATTENTION.iter().find(|(_, old, _)| *old == module)?;
    Some(format!("{half}{ATTENTION_PATH}{new}.{leaf}"))
}

fn middle(rest: &str) -> Option<String> {
    let (part, rest) = rest.split_once('.')?;
    match part {
        "block_1" => Some(format!("mid_block.resnets.0.{}", resnet(rest)?)),
        "block_2" => Some(format!("mid_block.resnets.1.{}", resnet(rest)?)),
        "attn_1" if rest == "norm" => Some(format!("{ATTENTION_PATH}group_norm")),
        "attn_1" => {
            let (_, _, new) = ATTENTION.iter().find(|(ldm, _, _)| *ldm == rest)?;
            Some(format!("{ATTENTION_PATH}{new}"))
        }
        _ => None,
    }
}

/// A part of a level: `block.1.norm1` or the sampler's convolution.
fn block(rest: &str, sampler: &str) -> Option<String> {
    if rest.strip_prefix(sampler) == Some(".conv") {
        return Some(format!("{sampler}rs.0.conv"));
    }
    let (layer, rest) = rest.strip_prefix("block.")?.split_once('.')?;
    let layer: u64 = layer.parse().ok()?;
    Some(format!("resnets.{layer}.{}", resnet(rest)?))
}

fn resnet(part: &str) -> Option<&str> {
    match part {
        "norm1" | "conv1" | "norm2" | "conv2" => Some(part),
        "nin_shortcut" => Some("conv_shortcut"),
        _ => None,
    }
}
