//! VAEs, encoders, adapters, embeddings and upscalers on their own.

use super::*;

#[test]
fn a_bare_vae_does_not_say_its_family_but_its_config_may() {
    let vae = |latent: &'static [u64]| -> [Spec<'static>; 2] {
        [("decoder.conv_in.weight", latent), ("decoder.mid_block.resnets.0.conv1.weight", &[8, 8, 3, 3])]
    };
    is(&vae(&[8, 4, 3, 3]), ModelType::Vae, Base::Unknown);
    is(&vae(&[8, 16, 3, 3]), ModelType::Vae, Base::Unknown);
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("my-vae");
    document(&folder.join("config.json"), &serde_json::json!({ "scaling_factor": 0.13025 }));
    let found = inspect(&model(&folder.join("diffusion_pytorch_model.safetensors"), &vae(&[8, 4, 3, 3]))).unwrap();
    assert_eq!((found.base, found.name.as_str()), (Base::Sdxl, "my-vae"));
    let told = with_metadata(&vae(&[8, 4, 3, 3]), &[("modelspec.architecture", "stable-diffusion-xl-v1-base/vae")]);
    assert_eq!((told.base, told.reason), (Base::Sdxl, None));
}

#[test]
fn preview_autoencoders_in_their_three_layouts() {
    is(&[("taesd_decoder.1.weight", &[8, 4, 3, 3])], ModelType::Taesd, Base::Unknown);
    is(&[("1.weight", &[8, 4, 3, 3]), ("3.conv.0.weight", &[8, 8, 3, 3])], ModelType::Taesd, Base::Unknown);
    is(&[("0.weight", &[8, 3, 3, 3]), ("1.conv.0.weight", &[8, 8, 3, 3])], ModelType::Taesd, Base::Unknown);
    let found = look(&[("decoder.layers.0.weight", &[8, 16, 3, 3]), ("encoder.layers.0.weight", &[8, 3, 3, 3])]);
    assert_eq!((found.model_type, &found.metadata["facts"]["latent_channels"]), (ModelType::Taesd, &16.into()));
}

#[test]
fn text_encoders_by_depth_and_width() {
    let hf = |layers: usize, width: u64| {
        let mut names = vec![("text_model.embeddings.token_embedding.weight".to_owned(), vec![4, width])];
        names.extend((0..layers).map(|i| (format!("text_model.encoder.layers.{i}.layer_norm1.weight"), vec![width])));
        look(&specs(&names)).metadata["facts"]["encoder"].clone()
    };
    assert_eq!([hf(12, 768), hf(23, 1024), hf(32, 1280), hf(2, 32)], ["clip-l", "clip-h", "clip-g", "clip"]);
    let bare: [Spec<'_>; 2] =
        [("embeddings.token_embedding.weight", &[4, 768]), ("encoder.layers.0.layer_norm1.weight", &[768])];
    is(&bare, ModelType::TextEncoder, Base::Unknown);
    is(
        &[("token_embedding.weight", &[4, 8]), ("transformer.resblocks.0.ln_1.weight", &[8])],
        ModelType::TextEncoder,
        Base::Unknown,
    );
    is(
        &[("shared.weight", &[4, 8]), ("encoder.block.0.layer.0.SelfAttention.q.weight", &[8, 8])],
        ModelType::TextEncoder,
        Base::Unknown,
    );
    is(&[("vision_model.embeddings.class_embedding", &[8]), ("x", &[1])], ModelType::ImageEncoder, Base::Unknown);
}

#[test]
fn adapters_other_than_lora() {
    let sdxl: Vec<_> = family_unet("control_model.", "sdxl");
    let mut control = specs(&sdxl);
    control.push(("control_model.input_hint_block.0.weight", &[8, 3, 3, 3]));
    is(&control, ModelType::ControlNet, Base::Sdxl);
    let sd15 = family_unet("", "sd15");
    let mut control = specs(&sd15);
    control.push(("zero_convs.0.0.weight", &[8, 8, 1, 1]));
    is(&control, ModelType::ControlNet, Base::Sd15);
    is(
        &[("controlnet_blocks.0.weight", &[8, 8]), ("controlnet_x_embedder.weight", &[8, 8])],
        ModelType::ControlNet,
        Base::Flux,
    );
    let ip = |count: usize, width: u64| {
        let mut names = vec![("image_proj.proj.weight".to_owned(), vec![8, 8])];
        names.extend((0..count).map(|i| (format!("ip_adapter.{i}.to_k_ip.weight"), vec![8, width])));
        let found = look(&specs(&names));
        (found.model_type, found.base)
    };
    assert_eq!(ip(16, 768), (ModelType::IpAdapter, Base::Sd15));
    assert_eq!(ip(70, 2048), (ModelType::IpAdapter, Base::Sdxl));
    assert_eq!(ip(3, 768), (ModelType::IpAdapter, Base::Unknown));
    is(
        &[("body.0.resnets.0.block1.weight", &[8, 8, 3, 3]), ("conv_in.weight", &[8, 192, 3, 3])],
        ModelType::T2iAdapter,
        Base::Sd15,
    );
    let motion: Vec<_> = (0..4)
        .map(|i| (format!("down_blocks.{i}.motion_modules.0.temporal_transformer.norm.weight"), vec![8]))
        .collect();
    is(&specs(&motion), ModelType::MotionModule, Base::Sd15);
}

#[test]
fn embeddings_and_upscalers() {
    is(&[("emb_params", &[4, 768])], ModelType::Embedding, Base::Sd15);
    is(&[("emb_params", &[4, 1024])], ModelType::Embedding, Base::Sd21);
    is(&[("clip_l", &[4, 8]), ("clip_g", &[4, 12])], ModelType::Embedding, Base::Sdxl);
    is(&[("<my-token>", &[768])], ModelType::Embedding, Base::Sd15);
    is(&[("emb_params", &[4, 32])], ModelType::Embedding, Base::Unknown);
    let esrgan: [Spec<'_>; 2] =
        [("params_ema.conv_first.weight", &[8, 3, 3, 3]), ("params_ema.body.0.rdb1.conv1.weight", &[8, 8, 3, 3])];
    is(&esrgan, ModelType::Upscaler, Base::Unknown);
}
