//! LoRA layouts and flavours.

use super::*;

const SD15: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";

#[test]
fn bases_by_modules_and_widths() {
    let down = |module: &str, ending: &str, width: u64| {
        let tensors = [(format!("{module}{ending}"), vec![4, width])];
        let found = look(&specs(&tensors));
        assert_eq!(found.model_type, ModelType::Lora);
        found.base
    };
    let kohya = ".lora_down.weight";
    assert_eq!(down(SD15, kohya, 768), Base::Sd15);
    assert_eq!(down(SD15, kohya, 1024), Base::Sd21);
    assert_eq!(down(SD15, kohya, 32), Base::Unknown);
    let peft = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k";
    assert_eq!(down(peft, ".lora_A.weight", 768), Base::Sd15);
    assert_eq!(down(peft, ".lora_A.style.weight", 768), Base::Sd15);
    assert_eq!(down("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", kohya, 2048), Base::Sdxl);
    assert_eq!(down("lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_k", kohya, 32), Base::Sdxl);
    assert_eq!(down("lora_te2_text_model_encoder_layers_0_mlp_fc1", kohya, 32), Base::Sdxl);
    assert_eq!(down("lora_unet_double_blocks_0_img_attn_qkv", kohya, 32), Base::Flux);
    assert_eq!(down("transformer.single_transformer_blocks.0.attn.to_q", ".lora_A.weight", 32), Base::Flux);
    assert_eq!(down("transformer.transformer_blocks.0.attn.add_q_proj", ".lora_A.weight", 1536), Base::Sd3);
    assert_eq!(down("lora_te_text_model_encoder_layers_0_self_attn_q_proj", kohya, 768), Base::Sd15);
    // SDXL's first encoder has the same width, and diffusers the same name for it
    assert_eq!(down("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", kohya, 768), Base::Unknown);
    let encoder = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj";
    assert_eq!(down(encoder, ".lora_A.weight", 768), Base::Unknown);
    assert_eq!(down(encoder, ".lora_A.weight", 1024), Base::Sd21);
    let with_unet = [
        (format!("{encoder}.lora_A.weight"), vec![4, 768]),
        ("unet.up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight".to_owned(), vec![4, 320]),
    ];
    assert_eq!(look(&specs(&with_unet)).base, Base::Sd15, "level 0 is not SDXL's");
}

/// The refiner has attention in the third of four levels as SD 1 and SD 2 have, where it reads another text and is deeper.
#[test]
fn what_was_cut_to_the_third_level_is_the_refiners_only_where_that_shows() {
    let of = |module: &str, width: u64| {
        let tensors = [(format!("lora_unet_{module}.lora_down.weight"), vec![4, width])];
        look(&specs(&tensors)).base
    };
    let attention = "up_blocks_2_attentions_1_transformer_blocks";
    assert_eq!(of(&format!("{attention}_0_attn1_to_q"), 640), Base::Unknown);
    assert_eq!(of("output_blocks_6_1_transformer_blocks_0_attn1_to_q", 640), Base::Unknown);
    for (width, base) in [(768, Base::Sd15), (1024, Base::Sd21), (1280, Base::SdxlRefiner)] {
        assert_eq!(of(&format!("{attention}_0_attn2_to_k"), width), base);
    }
    assert_eq!(of(&format!("{attention}_3_attn1_to_q"), 768), Base::Unknown);
    assert_eq!(of(&format!("{attention}_1_attn1_to_q"), 768), Base::SdxlRefiner);
}

#[test]
fn reduced_ones_by_how_proj_in_is_stored() {
    let proj = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight";
    is(&[(proj, &[4, 8, 1, 1])], ModelType::Lora, Base::Sd15);
    is(&[(proj, &[4, 8])], ModelType::Lora, Base::Sd21);
    let narrow: [Spec<'_>; 1] =
        [("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", &[4, 32])];
    assert_eq!(with_metadata(&narrow, &[("ss_base_model_version", "sd_v1")]).base, Base::Sd15);
}

#[test]
fn flavours_are_told_apart() {
    let of = |ending: &str, shape: &[u64]| {
        let name = format!("{SD15}{ending}");
        look(&[(name.as_str(), shape)]).metadata["facts"]["flavours"][0].clone()
    };
    assert_eq!(of(".lora_down.weight", &[4, 768]), "lora");
    assert_eq!(of(".lora_down.weight", &[4, 8, 3, 3]), "locon");
    assert_eq!(of(".hada_w1_b", &[4, 768]), "loha");
    assert_eq!(of(".lokr_w1", &[4, 4]), "lokr");
    assert_eq!(of(".dora_scale", &[8, 1]), "dora");
    for magnitudes in [".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.style.weight"]
    {
        assert_eq!(of(magnitudes, &[8]), "dora", "{magnitudes}");
    }
    assert_eq!(of(".oft_blocks", &[2, 4, 4]), "oft");
    assert_eq!(of(".on_input", &[1]), "ia3");
    let (up, scale) = (format!("{SD15}.lora_down.weight"), format!("{SD15}.dora_scale"));
    let mixed = look(&[(up.as_str(), &[4, 768]), (scale.as_str(), &[8, 1])]);
    assert_eq!(mixed.metadata["facts"]["flavour"], "dora");
}
