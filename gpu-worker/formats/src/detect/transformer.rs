//! Diffusion transformer families: SD3 (MMDiT) and FLUX.1, in both namings; their relatives are
//! named as not known instead of being taken for them.

use super::Family;
use crate::{keys::Scope, vocab::Base};

/// The family, if the names below the scope are a diffusion transformer's.
pub(super) fn family(scope: Scope<'_, '_>) -> Option<Family> {
    let has = |key: &str| scope.has(key);
    if let Some(relative) = relative(scope) {
        return Some(relative);
    }
    if has("joint_blocks.0.context_block.attn.qkv.weight") && has("x_embedder.proj.weight") {
        return Some(sd3(scope, "joint_blocks.0.context_block.attn.qkv.weight", "joint_blocks"));
    }
    if has("transformer_blocks.0.attn.add_q_proj.weight")
        && has("pos_embed.proj.weight")
        && has("context_embedder.weight")
    {
        return Some(sd3(scope, "transformer_blocks.0.attn.add_q_proj.weight", "transformer_blocks"));
    }
    if has("double_blocks.0.img_attn.qkv.weight") && has("img_in.weight") && has("vector_in.in_layer.weight") {
        return Some(flux(
            scope,
            "double_blocks.0.img_attn.qkv.weight",
            "img_in.weight",
            "guidance_in.in_layer.weight",
        ));
    }
    if scope.any_under("single_transformer_blocks.0.proj_mlp.")
        && has("x_embedder.weight")
        && has("context_embedder.weight")
    {
        let guidance = "time_text_embed.guidance_embedder.linear_1.weight";
        return Some(flux(scope, "single_transformer_blocks.0.proj_mlp.weight", "x_embedder.weight", guidance));
    }
    None
}

/// Models that share names with FLUX.1 without being compatible.
fn relative(scope: Scope<'_, '_>) -> Option<Family> {
    let known = [
        ("distilled_guidance_layer.", "Chroma"),
        ("single_stream_modulation.", "FLUX.2"),
        ("double_stream_modulation_img.", "FLUX.2"),
    ];
    let (prefix, name) = known.into_iter().find(|(prefix, _)| scope.any_under(prefix))?;
    let mut family = Family::new(Base::Unknown, true);
    family.saw("transformer.relative", scope.full(prefix), name);
    family.reason = Some(format!("a {name} transformer, a family this version does not know"));
    Some(family)
}

fn sd3(scope: Scope<'_, '_>, key: &str, blocks: &'static str) -> Family {
    let mut family = Family::new(Base::Sd3, true);
    family.saw("transformer.mmdit", scope.full(key), scope.shape(key).unwrap_or_default().to_vec());
    let norms = ["x_block.attn.ln_q.weight", "attn.norm_q.weight"];
    let has_norms = norms.iter().any(|norm| scope.has(&format!("{blocks}.0.{norm}")));
    let dual = ["x_block.attn2.qkv.weight", "attn2.to_q.weight"];
    let has_dual = dual.iter().any(|part| scope.has(&format!("{blocks}.0.{part}")));
    let release = match (has_norms, has_dual) {
        (false, _) => "sd3",
        (true, true) => "sd3.5-medium",
        (true, false) => "sd3.5-large",
    };
    family.saw("transformer.mmdit_release", scope.full(blocks), release);
    family.facts.insert("release".to_owned(), release.into());
    family
}

fn flux(scope: Scope<'_, '_>, key: &str, input: &str, guidance: &str) -> Family {
    let mut family = Family::new(Base::Flux, true);
    family.saw("transformer.flux", scope.full(key), scope.shape(key).unwrap_or_default().to_vec());
    let release = if scope.has(guidance) { "dev" } else { "schnell" };
    family.saw("transformer.flux_guidance", scope.full(guidance), release);
    family.facts.insert("release".to_owned(), release.into());
    if let Some(channels) = scope.dim(input, 1) {
        let task = match channels {
            64 => "text_to_image",
            128 => "control",
            384 => "fill",
            _ => "unknown",
        };
        family.saw("transformer.flux_input", scope.full(input), channels);
        family.facts.insert("in_channels".to_owned(), channels.into());
        family.facts.insert("task".to_owned(), task.into());
    }
    family
}
