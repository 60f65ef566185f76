//! `unet/config.json`: widths, depths and levels of the tensors; heads and sinusoids, which leave no trace in them, of the family.

use serde_json::{Value, json};

use super::{DIFFUSERS, count, has, side};
use crate::{canonical::Canonical, vocab::Base};

/// SD 1 has eight heads on every level; its successors have heads of this width.
const SD1_HEADS: u64 = 8;
const HEAD: u64 = 64;
/// Narrower first levels than any release are reduced models, with heads of 16 and shorter sinusoids of sizes: the engine reads a
/// single file of theirs by the same rule.
const NARROWEST: u64 = 128;
const REDUCED_HEAD: u64 = 16;
const EACH: u64 = 256;
const REDUCED_EACH: u64 = 8;

/// The config; why there is none otherwise.
pub(super) fn config(canonical: &Canonical, base: Base) -> Result<Value, String> {
    let levels = count(canonical, "down_blocks.");
    let first = side(canonical, "conv_in.weight", 0)?;
    let width = |level: u64| side(canonical, &format!("down_blocks.{level}.resnets.0.norm2.weight"), 0);
    let channels = (0..levels).map(width).collect::<Result<Vec<_>, _>>()?;
    let heads: Vec<u64> = channels.iter().map(|channels| heads(*channels, first, base)).collect();
    let layers: Vec<u64> =
        (0..levels).map(|level| count(canonical, &format!("down_blocks.{level}.resnets."))).collect();
    let attends = |level: u64| has(canonical, &format!("down_blocks.{level}.attentions."));
    let named = |attends: bool, with: &str, without: &str| if attends { with.to_owned() } else { without.to_owned() };
    let down = (0..levels).map(|level| named(attends(level), "CrossAttnDownBlock2D", "DownBlock2D"));
    let up = (0..levels).map(|level| has(canonical, &format!("up_blocks.{level}.attentions.")));
    let up = up.map(|attends| named(attends, "CrossAttnUpBlock2D", "UpBlock2D"));
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "attention_head_dim": one_or_all(&heads),
        "block_out_channels": channels,
        "center_input_sample": false,
        "cross_attention_dim": context(canonical)?,
        "down_block_types": down.collect::<Vec<_>>(),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": side(canonical, "conv_in.weight", 1)?,
        "layers_per_block": one_or_all(&layers),
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "only_cross_attention": false,
        "out_channels": side(canonical, "conv_out.weight", 0)?,
        "resnet_time_scale_shift": "default",
        "sample_size": sample(base),
        "transformer_layers_per_block": depths(canonical, levels),
        "up_block_types": up.collect::<Vec<_>>(),
        // the 768-pixel release needs it, and no tensor tells it from the other
        "upcast_attention": base == Base::Sd21,
        "use_linear_projection": base != Base::Sd15,
    });
    extend(&mut config, middle(canonical));
    extend(&mut config, embeddings(canonical, first)?);
    Ok(config)
}

fn extend(config: &mut Value, more: Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

fn one_or_all(numbers: &[u64]) -> Value {
    let is_equal = numbers.windows(2).all(|pair| pair.first() == pair.last());
    if is_equal { json!(numbers.first()) } else { json!(numbers) }
}

fn heads(channels: u64, first: u64, base: Base) -> u64 {
    let width = if first < NARROWEST { REDUCED_HEAD } else { HEAD };
    if base == Base::Sd15 { SD1_HEADS } else { channels.checked_div(width).unwrap_or(1).max(1) }
}

/// Latents' side of the pictures that the family was trained for.
const fn sample(base: Base) -> u64 {
    match base {
        Base::Sdxl | Base::SdxlRefiner => 128,
        Base::Sd21 => 96,
        _ => 64,
    }
}

/// Levels without attention are written as 1; the middle takes the last entry, the way up the list backwards.
fn depths(canonical: &Canonical, levels: u64) -> Value {
    let depth = |level: u64| count(canonical, &format!("down_blocks.{level}.attentions.0.transformer_blocks."));
    let middle = count(canonical, "mid_block.attentions.0.transformer_blocks.");
    let written = |level: u64| match depth(level) {
        0 if level.saturating_add(1) == levels => middle.max(1),
        depth => depth.max(1),
    };
    one_or_all(&(0..levels).map(written).collect::<Vec<_>>())
}

/// Absent from the config where it is the usual one.
fn middle(canonical: &Canonical) -> Value {
    match (has(canonical, "mid_block.attentions."), has(canonical, "mid_block.")) {
        (true, _) => json!({}),
        (false, true) => json!({ "mid_block_type": "UNetMidBlock2D" }),
        (false, false) => json!({ "mid_block_type": null }),
    }
}

fn context(canonical: &Canonical) -> Result<u64, String> {
    let is_key = |name: &str| name.ends_with(".transformer_blocks.0.attn2.to_k.weight");
    let key = canonical.tensors.iter().find(|tensor| is_key(&tensor.name));
    side(canonical, key.map_or("attn2.to_k.weight", |key| &key.name), 1)
}

/// Sizes and pooled texts of SDXL, pictures of unCLIP.
fn embeddings(canonical: &Canonical, first: u64) -> Result<Value, String> {
    if has(canonical, "add_embedding.") {
        return Ok(json!({
            "addition_embed_type": "text_time",
            "addition_embed_type_num_heads": 64,
            "addition_time_embed_dim": if first < NARROWEST { REDUCED_EACH } else { EACH },
            "projection_class_embeddings_input_dim": side(canonical, "add_embedding.linear_1.weight", 1)?,
        }));
    }
    if has(canonical, "class_embedding.") {
        return Err("pictures or classes as conditions are not described here".to_owned());
    }
    Ok(json!({}))
}
