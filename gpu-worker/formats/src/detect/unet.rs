//! UNet families by structure: where cross attention begins, how many levels there are, and only
//! then by widths, so that reduced models are recognised too.

use serde_json::json;

use super::Family;
use crate::{keys::Scope, vocab::Base};

/// More blocks than any UNet has: bounds the walk.
const MAX_BLOCKS: usize = 64;

/// What a UNet's names and shapes say, whichever naming they use.
#[derive(Debug)]
struct Structure {
    /// The key of the first cross attention and its level.
    attention: Option<(String, usize)>,
    levels: usize,
    /// Width of the text conditioning.
    context: Option<u64>,
    /// 4 = convolution, 2 = linear.
    proj_in_rank: Option<usize>,
    proj_in_key: String,
    /// Width of the added (size, crop, class) conditioning.
    label: Option<(String, u64)>,
    input: (String, u64),
}

/// The family, if the names below the scope are a UNet's.
pub(super) fn family(scope: Scope<'_, '_>) -> Option<Family> {
    let structure = ldm(scope).or_else(|| diffusers(scope))?;
    let mut family = Family::new(Base::Unknown, false);
    describe(&mut family, &structure);
    classify(&mut family, &structure);
    input_task(&mut family, &structure);
    guidance(&mut family, scope);
    Some(family)
}

/// A network that takes the guidance scale as an input was distilled to few steps (LCM).
fn guidance(family: &mut Family, scope: Scope<'_, '_>) {
    let key = ["time_embedding.cond_proj.weight", "time_embed_cond_proj.weight"].into_iter().find(|key| scope.has(key));
    if let Some(key) = key {
        family.saw("unet.guidance_input", scope.full(key), scope.shape(key).unwrap_or_default().to_vec());
        family.facts.insert("distilled".to_owned(), "lcm".into());
    }
}

fn ldm(scope: Scope<'_, '_>) -> Option<Structure> {
    let input = scope.dim("input_blocks.0.0.weight", 1)?;
    if !scope.has("time_embed.0.weight") {
        return None;
    }
    let is_down = |block: &usize| scope.has(&format!("input_blocks.{block}.0.op.weight"));
    let to_k = |block: usize| format!("input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight");
    let first = (1..MAX_BLOCKS).find(|block| scope.has(&to_k(*block)));
    let proj = first.map_or_else(String::new, |block| format!("input_blocks.{block}.1.proj_in.weight"));
    Some(Structure {
        attention: first.map(|block| (scope.full(&to_k(block)), (1..block).filter(is_down).count())),
        levels: (1..MAX_BLOCKS).filter(is_down).count().saturating_add(1),
        context: first.and_then(|block| scope.dim(&to_k(block), 1)),
        proj_in_rank: scope.shape(&proj).map(<[u64]>::len),
        proj_in_key: scope.full(&proj),
        label: label(scope, &["label_emb.0.0.weight"]),
        input: (scope.full("input_blocks.0.0.weight"), input),
    })
}

fn diffusers(scope: Scope<'_, '_>) -> Option<Structure> {
    let input = scope.dim("conv_in.weight", 1)?;
    if !scope.has("time_embedding.linear_1.weight") || !scope.any_under("down_blocks.0.resnets.") {
        return None;
    }
    let to_k = |level: usize| format!("down_blocks.{level}.attentions.0.transformer_blocks.0.attn2.to_k.weight");
    let first = (0..MAX_BLOCKS).find(|level| scope.has(&to_k(*level)));
    let proj = first.map_or_else(String::new, |level| format!("down_blocks.{level}.attentions.0.proj_in.weight"));
    Some(Structure {
        attention: first.map(|level| (scope.full(&to_k(level)), level)),
        levels: scope.run_length(|level| format!("down_blocks.{level}.resnets.0.conv1.weight")),
        context: first.and_then(|level| scope.dim(&to_k(level), 1)),
        proj_in_rank: scope.shape(&proj).map(<[u64]>::len),
        proj_in_key: scope.full(&proj),
        label: label(scope, &["add_embedding.linear_1.weight", "class_embedding.linear_1.weight"]),
        input: (scope.full("conv_in.weight"), input),
    })
}

fn label(scope: Scope<'_, '_>, keys: &[&str]) -> Option<(String, u64)> {
    keys.iter().find_map(|key| Some((scope.full(key), scope.dim(key, 1)?)))
}

fn describe(family: &mut Family, structure: &Structure) {
    if let Some((key, level)) = &structure.attention {
        family.saw("unet.first_cross_attention", key, json!({ "level": level, "context": structure.context }));
    }
    family.saw("unet.levels", &structure.input.0, structure.levels);
    if let Some((key, width)) = &structure.label {
        family.saw("unet.added_conditioning", key, *width);
    }
    family.facts.insert("context_width".to_owned(), json!(structure.context));
}

/// Structure first; widths decide only between families of equal structure.
fn classify(family: &mut Family, structure: &Structure) {
    let labelled = structure.label.is_some();
    family.base = match (&structure.attention, structure.levels) {
        (Some((_, 0)), _) => one_or_two(family, structure),
        (Some((_, 1)), 3) if labelled => Base::Sdxl,
        (Some((_, 1)), 4) if labelled => Base::SdxlRefiner,
        _ => Base::Unknown,
    };
    if family.base == Base::Unknown {
        family.reason = Some(format!(
            "a UNet of an unknown family: {} levels, first cross attention at {}",
            structure.levels,
            structure.attention.as_ref().map_or_else(|| "no level".to_owned(), |(_, level)| format!("level {level}")),
        ));
    }
}

/// SD1 and SD2 have the same blocks: the release widths decide, else how `proj_in` is stored.
fn one_or_two(family: &mut Family, structure: &Structure) -> Base {
    match (structure.context, structure.proj_in_rank) {
        (Some(768), _) => Base::Sd15,
        (Some(1024), _) => Base::Sd21,
        (_, Some(4)) => {
            family.saw("unet.proj_in", &structure.proj_in_key, "convolution");
            Base::Sd15
        }
        (_, Some(2)) => {
            family.saw("unet.proj_in", &structure.proj_in_key, "linear");
            Base::Sd21
        }
        _ => Base::Unknown,
    }
}

fn input_task(family: &mut Family, structure: &Structure) {
    let task = match structure.input.1 {
        4 => "text_to_image",
        5 => "depth",
        7 => "upscale_x4",
        8 => "instruct_pix2pix",
        9 => "inpainting",
        _ => "unknown",
    };
    family.saw("unet.input_channels", &structure.input.0, structure.input.1);
    family.facts.insert("in_channels".to_owned(), structure.input.1.into());
    family.facts.insert("task".to_owned(), task.into());
}
