//! ControlNets, IP-Adapters, T2I-Adapters and motion modules.

use super::{Family, Verdict, denoiser};
use crate::{
    keys::Keys,
    vocab::{Base, ModelType},
};

/// ControlNet (LDM, diffusers, FLUX/SD3 form) or Control-LoRA.
pub(super) fn control_net(keys: &Keys<'_>) -> Option<Verdict> {
    let scope = keys.scope("");
    let tells = [
        "control_model.input_hint_block.0.weight",
        "control_model.zero_convs.0.0.weight",
        "input_hint_block.0.weight",
        "zero_convs.0.0.weight",
        "controlnet_cond_embedding.conv_in.weight",
        "controlnet_down_blocks.0.weight",
        "controlnet_blocks.0.weight",
        "lora_controlnet",
    ];
    let key = tells.into_iter().find(|key| scope.has(key))?;
    let mut verdict = Verdict::of(ModelType::ControlNet);
    verdict.saw("controlnet.marker", key, scope.shape(key).unwrap_or_default().to_vec());
    let prefix = if key.starts_with("control_model.") { "control_model." } else { "" };
    match denoiser(keys, prefix).or_else(|| control_transformer(keys)) {
        Some(family) => verdict.adopt(family),
        None => verdict.reason = Some("base unknown: no denoiser names to tell it by".to_owned()),
    }
    if key == "lora_controlnet" {
        verdict.fact("flavour", "control_lora");
    }
    Some(verdict)
}

/// ControlNets of transformers hold only some of the blocks.
fn control_transformer(keys: &Keys<'_>) -> Option<Family> {
    let scope = keys.scope("");
    let told = [
        ("controlnet_x_embedder.weight", Base::Flux),
        ("single_transformer_blocks.0.proj_mlp.weight", Base::Flux),
        ("pos_embed_input.proj.weight", Base::Sd3),
    ];
    let (key, base) = told.into_iter().find(|(key, _)| scope.has(key))?;
    let mut family = Family::new(base, true);
    family.saw("controlnet.transformer", key, scope.shape(key).unwrap_or_default().to_vec());
    Some(family)
}

/// IP-Adapter: the number of attention layers it feeds is the family's.
pub(super) fn ip_adapter(keys: &Keys<'_>) -> Option<Verdict> {
    if !keys.any_under("image_proj.") || !keys.any_under("ip_adapter.") {
        return None;
    }
    let mut verdict = Verdict::of(ModelType::IpAdapter);
    let layers: Vec<_> = keys.under("ip_adapter.").filter(|(name, _)| name.ends_with(".to_k_ip.weight")).collect();
    let Some((key, tensor)) = layers.first() else {
        verdict.saw("ip_adapter.layers", "ip_adapter.", 0);
        verdict.reason = Some("base unknown: it feeds no attention layer".to_owned());
        return Some(verdict);
    };
    let width = tensor.shape.get(1).copied();
    verdict.saw("ip_adapter.layers", "ip_adapter.", layers.len());
    verdict.saw("ip_adapter.width", key, width);
    verdict.base = match (layers.len(), width) {
        (70, _) => Base::Sdxl,
        (16, Some(1024)) => Base::Sd21,
        (16, Some(768)) => Base::Sd15,
        _ => Base::Unknown,
    };
    if verdict.base == Base::Unknown {
        verdict.reason =
            Some(format!("base unknown: no known family has {} attention layers of this width", layers.len()));
    }
    Some(verdict)
}

/// T2I-Adapter; its input convolution takes 64 pixels' worth of the hint for SD1, 256 for SDXL.
pub(super) fn t2i_adapter(keys: &Keys<'_>) -> Option<Verdict> {
    let scope = keys.scope("");
    let tells = [
        ("adapter.body.0.resnets.0.block1.weight", "adapter.conv_in.weight"),
        ("body.0.resnets.0.block1.weight", "conv_in.weight"),
        ("body.0.block1.weight", "conv_in.weight"),
    ];
    let (key, input) = tells.into_iter().find(|(key, _)| scope.has(key))?;
    let mut verdict = Verdict::of(ModelType::T2iAdapter);
    verdict.saw("t2i_adapter.body", key, scope.shape(key).unwrap_or_default().to_vec());
    let channels = scope.dim(input, 1);
    verdict.saw("t2i_adapter.input", input, channels);
    verdict.base = match channels {
        Some(64 | 192) => Base::Sd15,
        Some(256 | 768) => Base::Sdxl,
        _ => Base::Unknown,
    };
    if verdict.base == Base::Unknown {
        verdict.reason = Some("base unknown: no known family has this input".to_owned());
    }
    Some(verdict)
}

/// AnimateDiff motion module, in its own naming or diffusers': one set of modules per UNet level. A UNet that holds
/// them already is none.
pub(super) fn motion_module(keys: &Keys<'_>) -> Option<Verdict> {
    if keys.scope("").has("conv_in.weight") {
        return None;
    }
    let levels_of =
        |part: &str| (0..8usize).take_while(|level| keys.any_under(&format!("down_blocks.{level}{part}"))).count();
    let parts = [".motion_modules.0.temporal_transformer.", ".motion_modules.0.transformer_blocks."];
    let (part, levels) = parts.map(|part| (part, levels_of(part))).into_iter().max_by_key(|(_, levels)| *levels)?;
    if levels == 0 {
        return None;
    }
    let mut verdict = Verdict::of(ModelType::MotionModule);
    verdict.saw("motion_module.levels", format!("down_blocks.0{part}"), levels);
    verdict.base = match levels {
        4 => Base::Sd15,
        3 => Base::Sdxl,
        _ => Base::Unknown,
    };
    if verdict.base == Base::Unknown {
        verdict.reason = Some(format!("base unknown: no known family has {levels} UNet levels"));
    }
    Some(verdict)
}
