//! The family of a LoRA from its own keys: which modules it names, then the widths it fits.

use super::{
    Verdict,
    lora::{Adapted, Part},
};
use crate::vocab::Base;

/// Module names that exist in FLUX.1 only.
const FLUX: &[&str] = &["single_transformer_blocks_", "double_blocks_", "single_blocks_"];
/// Level 0 has cross attention: SD 1 and SD 2.
const LEVEL_0: &[&str] = &[
    "down_blocks_0_attentions_",
    "up_blocks_3_attentions_",
    "input_blocks_1_1_",
    "input_blocks_2_1_",
    "output_blocks_9_1_",
    "output_blocks_10_1_",
    "output_blocks_11_1_",
];
/// Attention right after the middle, or a second text encoder beside a UNet: SDXL.
const XL: &[&str] = &["up_blocks_0_attentions_", "output_blocks_0_1_", "lora_te2_", "text_encoder_2_"];
/// Attention in the third of four levels without level 0: the refiner, or SD 1 and SD 2 where only these levels were trained.
const REFINER: &[&str] = &["up_blocks_2_attentions_", "output_blocks_6_1_"];
/// Several transformer layers per attention in the middle: SDXL or its refiner.
const DEEP: &[&str] = &["mid_block_attentions_0_transformer_blocks_1_", "middle_block_1_transformer_blocks_1_"];
/// The second transformer layer of an attention, which SD 1 and SD 2 have nowhere.
const SECOND_LAYER: &[&str] = &["_transformer_blocks_1_"];

/// Sets the base, or the reason why it is unknown.
pub(super) fn decide(verdict: &mut Verdict, adapted: &[Adapted<'_>]) {
    let modules = first_of_each(adapted);
    let find = |marks: &[&str]| {
        modules.iter().find(|item| marks.iter().any(|mark| item.module.contains(mark))).map(|item| &item.tensor.name)
    };
    let context = width(adapted, "attn2_to_k").or_else(|| width(adapted, "attn2_to_v"));
    if let Some((key, width)) = &context {
        verdict.saw("lora.context_width", key, *width);
    }
    let context = context.map(|(_, width)| width);
    let base = if let Some(key) = find(FLUX) {
        verdict.saw("lora.flux_module", key, "flux");
        Base::Flux
    } else if let Some(key) = find(&["joint_blocks_"]) {
        verdict.saw("lora.mmdit_module", key, "sd3");
        Base::Sd3
    } else if let Some((key, width)) = width(adapted, "attn_add_q_proj") {
        verdict.saw("lora.joint_attention_width", key, width);
        joint(width)
    } else if let Some(key) = find(LEVEL_0) {
        verdict.saw("lora.level_0_attention", key, "sd15 or sd21");
        one_or_two(verdict, adapted, context)
    } else if let Some(key) = find(XL) {
        verdict.saw("lora.xl_module", key, "sdxl");
        Base::Sdxl
    } else if let (Some(key), true) =
        (find(REFINER), context.map_or_else(|| find(SECOND_LAYER).is_some(), |width| width == 1280))
    {
        verdict.saw("lora.refiner_module", key, "sdxl-refiner");
        Base::SdxlRefiner
    } else {
        by_width(verdict, adapted, context, find(DEEP))
    };
    verdict.base = base;
    if base == Base::Unknown {
        verdict.reason =
            Some("base unknown: neither its modules nor their widths belong to one family only".to_owned());
    }
}

/// The first tensor of each module, as far as those of one module follow each other: the marks are in the module's name, and
/// looking for them is most of the work of a listing.
fn first_of_each<'a, 't>(adapted: &'a [Adapted<'t>]) -> Vec<&'a Adapted<'t>> {
    adapted.chunk_by(|a, b| a.module == b.module).filter_map(<[_]>::first).collect()
}

const fn joint(width: u64) -> Base {
    match width {
        1536 | 2432 => Base::Sd3,
        3072 => Base::Flux,
        _ => Base::Unknown,
    }
}

/// SD 1 or SD 2: context width, else how `proj_in` is stored, else the encoder's depth.
fn one_or_two(verdict: &mut Verdict, adapted: &[Adapted<'_>], context: Option<u64>) -> Base {
    match context {
        Some(768) => return Base::Sd15,
        Some(1024) => return Base::Sd21,
        _ => {}
    }
    let proj_in = adapted.iter().find(|item| item.part == Part::Down && item.module.ends_with("proj_in"));
    if let Some(item) = proj_in {
        let is_convolution = item.tensor.shape.len() == 4;
        verdict.saw("lora.proj_in", &item.tensor.name, item.tensor.shape.clone());
        return if is_convolution { Base::Sd15 } else { Base::Sd21 };
    }
    let deep = adapted.iter().find(|item| item.module.starts_with("lora_te_text_model_encoder_layers_12_"));
    match deep {
        Some(item) => {
            verdict.saw("lora.encoder_depth", &item.tensor.name, "more than 12 layers");
            Base::Sd21
        }
        None => encoder_width(verdict, adapted, true),
    }
}

/// Without a telling module: the width of the text conditioning, or of the text encoder.
fn by_width(verdict: &mut Verdict, adapted: &[Adapted<'_>], context: Option<u64>, deep: Option<&String>) -> Base {
    match context {
        Some(768) => Base::Sd15,
        Some(1024) => Base::Sd21,
        Some(2048) => Base::Sdxl,
        Some(1280) => Base::SdxlRefiner,
        _ => match deep {
            Some(key) => {
                verdict.saw("lora.deep_attention", key, "sdxl");
                Base::Sdxl
            }
            None => encoder_width(verdict, adapted, false),
        },
    }
}

/// By the width of its text encoder. One of 768 is SD 1's, and the first of SDXL's as well: unless modules of the UNet say that it
/// `is_one_or_two`, only kohya's name for the encoder of a model that has no other tells them apart.
fn encoder_width(verdict: &mut Verdict, adapted: &[Adapted<'_>], is_one_or_two: bool) -> Base {
    let begins = |prefix: &str| adapted.iter().any(|item| item.module.starts_with(prefix));
    let is_only = begins("lora_te_");
    let Some((key, width)) =
        width(adapted, "self_attn_q_proj").filter(|_| is_only || begins("text_encoder_text_model"))
    else {
        return Base::Unknown;
    };
    verdict.saw("lora.encoder_width", key, width);
    match width {
        768 if is_only || is_one_or_two => Base::Sd15,
        1024 => Base::Sd21,
        _ => Base::Unknown,
    }
}

/// The input width of the first module with this ending.
fn width(adapted: &[Adapted<'_>], ending: &str) -> Option<(String, u64)> {
    let item = adapted.iter().find(|item| item.part == Part::Down && item.module.ends_with(ending));
    match item {
        Some(item) => Some((item.tensor.name.clone(), item.tensor.shape.get(1).copied()?)),
        None => kronecker(adapted, ending),
    }
}

/// The same of a Kronecker product: each factor has its part of the width, whole or as the second of two factors.
fn kronecker(adapted: &[Adapted<'_>], ending: &str) -> Option<(String, u64)> {
    let factor = |module: Option<&str>, names: [&str; 2]| {
        adapted.iter().find(|item| {
            let here = module.map_or_else(|| item.module.ends_with(ending), |module| item.module == module);
            here && names.iter().any(|name| item.tensor.name.ends_with(name))
        })
    };
    let outer = factor(None, [".lokr_w1", ".lokr_w1_b"])?;
    let inner = factor(Some(&outer.module), [".lokr_w2", ".lokr_w2_b"])?;
    let width = outer.tensor.shape.get(1)?.checked_mul(*inner.tensor.shape.get(1)?)?;
    Some((outer.tensor.name.clone(), width))
}
