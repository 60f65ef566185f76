//! The config of a UNet that comes without one: a single-file checkpoint under canonical names.
//!
//! Widths, depths and kernels are those of the tensors. Heads, groups and sinusoids leave no trace in them and follow
//! from the family.

use super::config::{Added, Config, Level, MODEL, Middle};
use crate::{
    arch::settings::{side, wrong},
    error::EngineError,
    weights::TensorFacts,
};

/// SD 1 has eight heads on every level; its successors have heads of this width.
const SD1_HEADS: usize = 8;
const HEAD: usize = 64;
/// Narrower first levels than any release are reduced models, with heads of 16 and shorter sinusoids of sizes
/// (`modelyard dev make-models`).
const NARROWEST: usize = 128;
const REDUCED_HEAD: usize = 16;
/// Width of one number's sinusoid in SDXL and its refiner, and in reduced models.
const EACH: usize = 256;
const REDUCED_EACH: usize = 8;
/// Groups of every release.
const GROUPS: usize = 32;
/// Modules of models that are not built, with the setting that they come from.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("class_embedding.", "class_embed_type"),
    ("encoder_hid_proj.", "encoder_hid_dim_type"),
    ("time_embedding.cond_proj.", "time_cond_proj_dim"),
    ("position_net.", "attention_type"),
];

pub(super) fn read(facts: &TensorFacts, base: Option<&str>) -> Result<Config, EngineError> {
    refuse(facts)?;
    let projection = projection_rank(facts);
    let is_sd1 = match base {
        Some("sd15") => true,
        Some("sd21" | "sdxl" | "sdxl-refiner") => false,
        _ => projection == Some(4),
    };
    let levels = levels(facts, is_sd1)?;
    Ok(Config {
        in_channels: side(MODEL, facts, "conv_in.weight", 1)?,
        out_channels: side(MODEL, facts, "conv_out.weight", 0)?,
        middle: middle(facts),
        context: context(facts)?,
        has_linear_projection: projection == Some(2),
        time_width: side(MODEL, facts, "time_embedding.linear_1.weight", 0)?,
        flip_sin_to_cos: true,
        freq_shift: 0.0,
        added: added(facts)?,
        norm_groups: GROUPS,
        norm_eps: 1e-5,
        // the 768-pixel release needs it, and no tensor tells it from the other
        upcast_attention: base == Some("sd21"),
        conv_in_kernel: side(MODEL, facts, "conv_in.weight", 3)?,
        conv_out_kernel: side(MODEL, facts, "conv_out.weight", 3)?,
        levels,
    })
}

fn refuse(facts: &TensorFacts) -> Result<(), EngineError> {
    match UNSUPPORTED.iter().find(|(module, _)| facts.has_prefix(module)) {
        None => Ok(()),
        Some((module, field)) => Err(wrong(MODEL, *field, format!("set (`{module}*` is there)"), "null")),
    }
}

fn levels(facts: &TensorFacts, is_sd1: bool) -> Result<Vec<Level>, EngineError> {
    let count = facts.count("down_blocks.");
    let first = side(MODEL, facts, "conv_in.weight", 0)?;
    let level = |number: usize| {
        let (down, up) = (format!("down_blocks.{number}"), format!("up_blocks.{}", count - 1 - number));
        let norm = format!("{down}.resnets.0.norm2.weight");
        let channels = side(MODEL, facts, &norm, 0)?;
        check_groups(channels, &norm)?;
        let layers = facts.count(&format!("{down}.resnets."));
        let (down, up) = (depths(facts, &down, layers), depths(facts, &up, layers.saturating_add(1)));
        let attends = !down.is_empty() || !up.is_empty();
        let heads = heads(channels, first, is_sd1);
        if attends && !channels.is_multiple_of(heads) {
            let expected = format!("a multiple of the {heads} heads");
            return Err(wrong(MODEL, norm, format!("{channels} long"), expected));
        }
        Ok(Level { channels, heads, layers, down, up })
    };
    let levels = (0..count).map(level).collect::<Result<Vec<_>, _>>()?;
    if levels.is_empty() {
        return Err(wrong(MODEL, "down_blocks", "absent", "at least one"));
    }
    Ok(levels)
}

fn check_groups(channels: usize, norm: &str) -> Result<(), EngineError> {
    if channels.is_multiple_of(GROUPS) {
        return Ok(());
    }
    Err(wrong(MODEL, norm, format!("{channels} long"), format!("a multiple of the {GROUPS} groups")))
}

/// At least one; whether they divide the channels matters only where there is attention.
fn heads(channels: usize, first: usize, is_sd1: bool) -> usize {
    let width = if first < NARROWEST { REDUCED_HEAD } else { HEAD };
    if is_sd1 { SD1_HEADS } else { (channels / width).max(1) }
}

/// Transformer blocks behind each resnet; empty if there are none at all.
fn depths(facts: &TensorFacts, path: &str, layers: usize) -> Vec<usize> {
    let depth = |layer: usize| facts.count(&format!("{path}.attentions.{layer}.transformer_blocks."));
    if facts.has_prefix(&format!("{path}.attentions.")) { (0..layers).map(depth).collect() } else { Vec::new() }
}

fn middle(facts: &TensorFacts) -> Middle {
    match (facts.has_prefix("mid_block.attentions."), facts.has_prefix("mid_block.")) {
        (true, _) => Middle::Attention { depth: facts.count("mid_block.attentions.0.transformer_blocks.") },
        (false, true) => Middle::Resnet,
        (false, false) => Middle::Absent,
    }
}

/// Dimensions of the first projection around a transformer: four for a convolution, two for a matrix.
fn projection_rank(facts: &TensorFacts) -> Option<usize> {
    facts.iter().find(|(name, _)| name.ends_with(".proj_in.weight")).map(|(_, fact)| fact.shape.len())
}

fn context(facts: &TensorFacts) -> Result<usize, EngineError> {
    let end = ".transformer_blocks.0.attn2.to_k.weight";
    let keys = facts.iter().find(|(name, _)| name.ends_with(end)).map(|(name, _)| name);
    side(MODEL, facts, keys.unwrap_or("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"), 1)
}

fn added(facts: &TensorFacts) -> Result<Option<Added>, EngineError> {
    if !facts.has_prefix("add_embedding.") {
        return Ok(None);
    }
    let inputs = side(MODEL, facts, "add_embedding.linear_1.weight", 1)?;
    let first = side(MODEL, facts, "conv_in.weight", 0)?;
    Ok(Some(Added { inputs, each: if first < NARROWEST { REDUCED_EACH } else { EACH } }))
}
