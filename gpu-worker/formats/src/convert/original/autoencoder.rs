//! A VAE under LDM's names: the decoder's levels counted from the other end, its attention as 1×1 convolutions.

use super::{Original, count};
use crate::canonical::{Canonical, CanonicalTensor};

const PREFIX: &str = "first_stage_model.";
const ATTENTION: &[(&str, &str)] =
    &[("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")];

/// All tensors; the name for which there is none otherwise.
pub(super) fn originals(canonical: &Canonical, alone: bool) -> Result<Vec<Original>, String> {
    let levels = count(canonical, "decoder.up_blocks.");
    let prefix = if alone { "" } else { PREFIX };
    let of = |(index, tensor): (usize, &CanonicalTensor)| {
        let name = renamed(&tensor.name, levels).ok_or_else(|| tensor.name.clone())?;
        Ok(Original::renamed(format!("{prefix}{name}"), index, &shape(tensor)))
    };
    canonical.tensors.iter().enumerate().map(of).collect()
}

/// Attention matrices become 1×1 convolutions.
fn shape(tensor: &CanonicalTensor) -> Vec<u64> {
    match tensor.shape.as_slice() {
        [rows, cols] if tensor.name.contains(".attentions.") => vec![*rows, *cols, 1, 1],
        shape => shape.to_vec(),
    }
}

fn renamed(name: &str, levels: u64) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
    let (module, leaf) = rest.rsplit_once('.')?;
    let path = match module {
        "conv_in" | "conv_out" => module.to_owned(),
        "conv_norm_out" => "norm_out".to_owned(),
        module => inside(half, module, levels)?,
    };
    Some(format!("{half}.{path}.{leaf}"))
}

fn inside(half: &str, module: &str, levels: u64) -> Option<String> {
    let (row, rest) = module.split_once('.')?;
    match (half, row) {
        (_, "mid_block") => middle(rest),
        ("encoder", "down_blocks") => {
            let (level, rest) = rest.split_once('.')?;
            Some(format!("down.{}.{}", level.parse::<u64>().ok()?, block(rest, "downsample")?))
        }
        ("decoder", "up_blocks") => {
            let (level, rest) = rest.split_once('.')?;
            let level = levels.checked_sub(1)?.checked_sub(level.parse().ok()?)?;
            Some(format!("up.{level}.{}", block(rest, "upsample")?))
        }
        _ => None,
    }
}

fn middle(rest: &str) -> Option<String> {
    if let Some(part) = rest.strip_prefix("attentions.0.") {
        let (_, ldm) = ATTENTION.iter().find(|(diffusers, _)| *diffusers == part)?;
        return Some(format!("mid.attn_1.{ldm}"));
    }
    let (number, part) = rest.strip_prefix("resnets.")?.split_once('.')?;
    let number = number.parse::<u64>().ok()?.checked_add(1)?;
    Some(format!("mid.block_{number}.{}", resnet(part)?))
}

/// A resnet, or the sampler's convolution.
fn block(rest: &str, sampler: &str) -> Option<String> {
    if rest.strip_prefix(sampler) == Some("rs.0.conv") {
        return Some(format!("{sampler}.conv"));
    }
    let (layer, part) = rest.strip_prefix("resnets.")?.split_once('.')?;
    Some(format!("block.{}.{}", layer.parse::<u64>().ok()?, resnet(part)?))
}

fn resnet(part: &str) -> Option<&str> {
    match part {
        "norm1" | "conv1" | "norm2" | "conv2" => Some(part),
        "conv_shortcut" => Some("nin_shortcut"),
        _ => None,
    }
}
