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
