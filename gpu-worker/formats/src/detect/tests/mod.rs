//! One reduced or synthetic header per type and family, through the whole inspection.

mod golden;
mod golden_files;
mod lora;
mod parts;

use tempfile::TempDir;

use crate::{
    Base, ComponentKind, Inspection, ModelType, inspect,
    testing::{Spec, document, family_unet, model, model_in, specs},
};

fn look(tensors: &[Spec<'_>]) -> Inspection {
    let dir = TempDir::new().unwrap();
    inspect(&model(&dir.path().join("x.safetensors"), tensors)).unwrap()
}

fn with_metadata(tensors: &[Spec<'_>], metadata: &[(&str, &str)]) -> Inspection {
    let dir = TempDir::new().unwrap();
    inspect(&model_in(&dir.path().join("x.safetensors"), "F32", tensors, metadata)).unwrap()
}

fn is(tensors: &[Spec<'_>], model_type: ModelType, base: Base) {
    let found = look(tensors);
    assert_eq!(
        (found.model_type, found.base),
        (model_type, base),
        "{tensors:?}: {:?} {:?}",
        found.reason,
        found.evidence
    );
    assert!(!found.evidence.is_empty());
    // what is open has a reason, what is settled has none
    let is_open = base == Base::Unknown;
    assert_eq!(found.reason.is_some(), is_open, "{tensors:?}: {:?}", found.reason);
    assert_eq!(found.components.is_empty(), model_type == ModelType::Unknown);
}

/// A reduced checkpoint of a family: UNet, VAE, encoders, leftovers.
fn checkpoint(family: &str, more: &[Spec<'_>]) -> Inspection {
    let unet = family_unet("model.diffusion_model.", family);
    let mut tensors = specs(&unet);
    tensors.push(("first_stage_model.decoder.conv_in.weight", &[8, 4, 3, 3]));
    tensors.push(("model_ema.decay", &[]));
    tensors.push(("alphas_cumprod", &[1000]));
    tensors.extend_from_slice(more);
    look(&tensors)
}

fn kinds(found: &Inspection) -> Vec<&str> {
    found.components.iter().map(|component| component.kind.as_str()).collect()
}

#[test]
fn reduced_checkpoints_of_every_unet_family() {
    let l = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight";
    let g = "conditioner.embedders.1.model.token_embedding.weight";
    let ids = "cond_stage_model.transformer.text_model.embeddings.position_ids";
    let cases: [(&str, Base, &[Spec<'_>], &[&str]); 4] = [
        (
            "sd15",
            Base::Sd15,
            &[("cond_stage_model.transformer.text_model.final_layer_norm.weight", &[32]), (ids, &[1, 77])],
            &["unet", "vae", "text_encoder"],
        ),
        ("sd21", Base::Sd21, &[("cond_stage_model.model.ln_final.weight", &[32])], &["unet", "vae", "text_encoder"]),
        ("sdxl", Base::Sdxl, &[(l, &[4, 8]), (g, &[4, 8])], &["unet", "vae", "text_encoder", "text_encoder_2"]),
        (
            "sdxl-refiner",
            Base::SdxlRefiner,
            &[("conditioner.embedders.0.model.token_embedding.weight", &[4, 8])],
            &["unet", "vae", "text_encoder_2"],
        ),
    ];
    for (family, base, encoders, parts) in cases {
        let found = checkpoint(family, encoders);
        assert_eq!((found.model_type, found.base), (ModelType::Checkpoint, base), "{:?}", found.evidence);
        assert_eq!(kinds(&found), parts);
        assert_eq!(found.variant.as_deref(), Some("fp16"));
        assert!(found.metadata["facts"]["ignored_tensors"].as_u64().unwrap() >= 2);
        assert!(found.components.iter().all(|component| component.dtype == "F16" && component.bytes > 0));
    }
}

#[test]
fn encoders_decide_between_equal_unets_but_not_across_structures() {
    // a squeezed `proj_in` looks like SD 2; the CLIP-L encoder says SD 1
    let found = checkpoint("sd21", &[("cond_stage_model.transformer.text_model.final_layer_norm.weight", &[32])]);
    assert_eq!(found.base, Base::Sd15);
    let found = checkpoint("sd15", &[("conditioner.embedders.1.model.ln_final.weight", &[32])]);
    assert_eq!(found.base, Base::Unknown);
    assert!(found.reason.unwrap().contains("sdxl"));
}

#[test]
fn predictions_come_from_markers_then_metadata() {
    let plain = checkpoint("sdxl", &[("conditioner.embedders.1.model.ln_final.weight", &[8])]);
    assert_eq!(plain.prediction.as_deref(), Some("epsilon"));
    let marked = checkpoint("sdxl", &[("v_pred", &[0]), ("ztsnr", &[0])]);
    assert_eq!(marked.prediction.as_deref(), Some("v_prediction"));
    let unet = family_unet("model.diffusion_model.", "sd21");
    assert_eq!(look(&specs(&unet)).prediction, None);
    let told = with_metadata(&specs(&unet), &[("modelspec.prediction_type", "v")]);
    assert_eq!(told.prediction.as_deref(), Some("v_prediction"));
    assert_eq!(told.variant.as_deref(), Some("fp32"));
}

#[test]
fn an_ema_copy_and_a_guidance_input_are_noted() {
    let plain = checkpoint("sd15", &[("cond_stage_model.transformer.text_model.final_layer_norm.weight", &[32])]);
    assert_eq!(plain.metadata["facts"]["ema"], false);
    let copied = checkpoint("sd15", &[("model_ema.diffusion_modelinput_blocks00weight", &[8, 4, 3, 3])]);
    assert_eq!(copied.metadata["facts"]["ema"], true);
    let mut unet = family_unet("", "sd15");
    unet.push(("time_embed_cond_proj.weight".to_owned(), vec![8, 16]));
    assert_eq!(look(&specs(&unet)).metadata["facts"]["distilled"], "lcm");
}

#[test]
fn inpainting_is_a_task_of_the_same_family() {
    let mut unet = family_unet("model.diffusion_model.", "sd15");
    unet[0].1[1] = 9;
    let found = look(&specs(&unet));
    assert_eq!((found.model_type, found.base), (ModelType::Unet, Base::Sd15));
    assert_eq!(found.metadata["facts"]["task"], "inpainting");
}

#[test]
fn bare_denoisers_in_both_namings() {
    for (family, base) in
        [("sd15", Base::Sd15), ("sd21", Base::Sd21), ("sdxl", Base::Sdxl), ("sdxl-refiner", Base::SdxlRefiner)]
    {
        is(&specs(&family_unet("", family)), ModelType::Unet, base);
    }
    let common: [Spec<'_>; 2] = [("conv_in.weight", &[8, 4, 3, 3]), ("time_embedding.linear_1.weight", &[32, 8])];
    let levels: [Spec<'_>; 4] = [
        ("down_blocks.0.resnets.0.conv1.weight", &[8, 8, 3, 3]),
        ("down_blocks.1.resnets.0.conv1.weight", &[8, 8, 3, 3]),
        ("down_blocks.2.resnets.0.conv1.weight", &[8, 8, 3, 3]),
        ("down_blocks.3.resnets.0.conv1.weight", &[8, 8, 3, 3]),
    ];
    let xl: [Spec<'_>; 2] = [
        ("add_embedding.linear_1.weight", &[8, 8]),
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[8, 24]),
    ];
    let one: [Spec<'_>; 2] = [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[8, 768]),
        ("down_blocks.0.attentions.0.proj_in.weight", &[8, 8]),
    ];
    is(&[&common[..], &levels[..3], &xl].concat(), ModelType::Unet, Base::Sdxl);
    is(&[&common[..], &levels, &xl].concat(), ModelType::Unet, Base::SdxlRefiner);
    is(&[&common[..], &levels, &one].concat(), ModelType::Unet, Base::Sd15);
}

#[test]
fn transformers_in_both_namings() {
    let sd3: [Spec<'_>; 2] =
        [("joint_blocks.0.context_block.attn.qkv.weight", &[24, 8]), ("x_embedder.proj.weight", &[8, 16, 2, 2])];
    is(&sd3, ModelType::Transformer, Base::Sd3);
    let hf: [Spec<'_>; 3] = [
        ("transformer_blocks.0.attn.add_q_proj.weight", &[8, 8]),
        ("pos_embed.proj.weight", &[8, 16, 2, 2]),
        ("context_embedder.weight", &[8, 8]),
    ];
    is(&hf, ModelType::Transformer, Base::Sd3);
    let flux: [Spec<'_>; 3] = [
        ("double_blocks.0.img_attn.qkv.weight", &[24, 8]),
        ("img_in.weight", &[8, 384]),
        ("vector_in.in_layer.weight", &[8, 8]),
    ];
    is(&flux, ModelType::Transformer, Base::Flux);
    let found = look(&flux);
    assert_eq!(
        (&found.metadata["facts"]["task"], &found.metadata["facts"]["release"]),
        (&"fill".into(), &"schnell".into())
    );
    assert_eq!(found.prediction.as_deref(), Some("flow"));
    let hf: [Spec<'_>; 3] = [
        ("single_transformer_blocks.0.proj_mlp.weight", &[8, 8]),
        ("x_embedder.weight", &[8, 64]),
        ("context_embedder.weight", &[8, 8]),
    ];
    is(&hf, ModelType::Transformer, Base::Flux);
    let chroma: Vec<Spec<'_>> =
        flux.into_iter().chain([("distilled_guidance_layer.in_proj.weight", &[8, 8][..])]).collect();
    is(&chroma, ModelType::Transformer, Base::Unknown);
}

#[test]
fn a_bundle_with_a_transformer_has_its_encoders_in_order() {
    let found = look(&[
        ("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight", &[24, 8]),
        ("model.diffusion_model.x_embedder.proj.weight", &[8, 16, 2, 2]),
        ("text_encoders.clip_l.transformer.text_model.final_layer_norm.weight", &[8]),
        ("text_encoders.clip_g.transformer.text_model.final_layer_norm.weight", &[8]),
        ("text_encoders.t5xxl.transformer.shared.weight", &[8, 8]),
        ("first_stage_model.decoder.conv_in.weight", &[8, 16, 3, 3]),
    ]);
    assert_eq!((found.model_type, found.base), (ModelType::Checkpoint, Base::Sd3));
    assert_eq!(kinds(&found), ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"]);
}

#[test]
fn the_unknown_stays_unknown() {
    is(&[], ModelType::Unknown, Base::Unknown);
    is(&[("some.weight", &[2, 2]), ("other.weight", &[2, 2])], ModelType::Unknown, Base::Unknown);
    is(
        &[("model_ema.diffusion_modelinput_blocks00weight", &[2, 2]), ("model_ema.decay", &[])],
        ModelType::Unknown,
        Base::Unknown,
    );
    is(&[("model.diffusion_model.odd.weight", &[2, 2])], ModelType::Unknown, Base::Unknown);
}

#[test]
fn metadata_never_overrules_content_and_nul_is_not_kept() {
    let unet = family_unet("", "sd15");
    let found = with_metadata(&specs(&unet), &[("ss_base_model_version", "sdxl_base_v1-0"), ("a\u{0}b", "c\u{0}")]);
    assert_eq!(found.base, Base::Sd15);
    assert!(found.evidence.iter().any(|evidence| evidence.rule == "metadata.disagrees"));
    assert_eq!(found.metadata["a\u{fffd}b"], "c\u{fffd}");
    assert_eq!(found.components[0].kind, ComponentKind::Unet);
}
