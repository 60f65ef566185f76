//! The configs of the releases, for components that come without one, and which release the tensors belong to.
//!
//! A release is only taken where its own width and depth are there: reduced, widened or pruned models would be
//! compared with the wrong table.

mod adapters;

use serde_json::{Value, json};

use crate::{
    canonical::Canonical,
    vocab::{Base, ComponentKind},
};

/// What the tensors say about sizes.
struct Sizes<'a>(&'a Canonical);

impl Sizes<'_> {
    fn dim(&self, name: &str, axis: usize) -> Option<u64> {
        self.0.get(name)?.shape.get(axis).copied()
    }

    /// The largest number after `part` in any name, plus one.
    fn count(&self, part: &str) -> u64 {
        let number = |name: &str| name.split_once(part)?.1.split('.').next()?.parse::<u64>().ok();
        let last = self.0.tensors.iter().filter_map(|tensor| number(&tensor.name)).max();
        last.map_or(0, |last| last.saturating_add(1))
    }

    /// The same for names that begin with `prefix`.
    fn count_from(&self, prefix: &str) -> u64 {
        let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<u64>().ok();
        let last = self.0.tensors.iter().filter_map(|tensor| number(&tensor.name)).max();
        last.map_or(0, |last| last.saturating_add(1))
    }

    /// The first of these sides that is there.
    fn any(&self, places: &[(&str, usize)]) -> Option<u64> {
        places.iter().find_map(|(name, axis)| self.dim(name, *axis))
    }

    fn has(&self, part: &str) -> bool {
        self.0.tensors.iter().any(|tensor| tensor.name.contains(part))
    }
}

/// Whether the names are those of the tiny preview autoencoder.
pub(super) fn is_tiny(tensors: &Canonical) -> bool {
    let names = ["encoder.layers.", "decoder.layers."];
    tensors.tensors.iter().any(|tensor| names.iter().any(|name| tensor.name.starts_with(name)))
}

/// The release's config; none if the tensors are not those of a known release.
pub(super) fn config(kind: ComponentKind, base: Base, tensors: &Canonical) -> Option<Value> {
    let sizes = Sizes(tensors);
    match kind {
        ComponentKind::Unet => unet(base, &sizes),
        ComponentKind::Vae if is_tiny(tensors) => {
            let width = sizes.any(&[("encoder.layers.0.weight", 0), ("decoder.layers.0.weight", 0)])?;
            let latent = sizes.dim("decoder.layers.0.weight", 1).filter(|latent| *latent == 16).unwrap_or(4);
            (width == 64).then(|| json!({ "_class_name": "AutoencoderTiny", "latent_channels": latent }))
        }
        ComponentKind::Vae => autoencoder(&sizes),
        ComponentKind::TextEncoder | ComponentKind::TextEncoder2 | ComponentKind::TextEncoder3 => {
            t5(&sizes).or_else(|| clip(kind, base, &sizes))
        }
        ComponentKind::ControlNet => adapters::control(base, &sizes),
        ComponentKind::T2iAdapter => adapters::t2i(base, &sizes),
        ComponentKind::Transformer if base == Base::Sd3 => mmdit(&sizes),
        ComponentKind::Transformer if base == Base::Flux => flux(&sizes),
        _ => None,
    }
}

fn unet(base: Base, sizes: &Sizes<'_>) -> Option<Value> {
    let (mut config, width, depth) = match base {
        Base::Sd15 => (sd15(), 320, 1),
        Base::Sd21 => (sd21(), 320, 1),
        Base::Sdxl => (sdxl(), 320, 10),
        Base::SdxlRefiner => (refiner(), 384, 4),
        Base::Sd3 | Base::Flux | Base::Unknown => return None,
    };
    let found = sizes.any(&[("conv_in.weight", 0), ("conv_norm_out.weight", 0), ("conv_out.weight", 1)])?;
    if found != width || sizes.count(".transformer_blocks.") != depth {
        return None;
    }
    let settings = config.as_object_mut()?;
    // masks, depths and pictures beside the latents
    if let Some(inputs @ (5 | 7..=9)) = sizes.dim("conv_in.weight", 1) {
        settings.insert("in_channels".to_owned(), json!(inputs));
    }
    if let Some(inputs @ (1536 | 2048)) = sizes.dim("class_embedding.linear_1.weight", 1) {
        settings.insert("class_embed_type".to_owned(), json!("projection"));
        settings.insert("projection_class_embeddings_input_dim".to_owned(), json!(inputs));
    }
    Some(config)
}

fn sd15() -> Value {
    let (down, up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
    json!({
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "down_block_types": [down, down, down, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", up, up, up],
    })
}

fn sd21() -> Value {
    let mut config = sd15();
    if let Some(settings) = config.as_object_mut() {
        settings.insert("cross_attention_dim".to_owned(), json!(1024));
        settings.insert("use_linear_projection".to_owned(), json!(true));
    }
    config
}

fn sdxl() -> Value {
    let (down, up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
    json!({
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", down, down],
        "up_block_types": [up, up, "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": true,
        "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": 2816,
    })
}

fn refiner() -> Value {
    let (down, up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
    json!({
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": [384, 768, 1536, 1536],
        "cross_attention_dim": 1280,
        "down_block_types": ["DownBlock2D", down, down, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", up, up, "UpBlock2D"],
        "transformer_layers_per_block": 4,
        "use_linear_projection": true,
        "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": 2560,
    })
}

/// The VAE of the SD families; SD3's and FLUX's have 16 latent channels and no quantisation layers.
fn autoencoder(sizes: &Sizes<'_>) -> Option<Value> {
    let wide = sizes.any(&[("decoder.conv_in.weight", 0), ("encoder.conv_out.weight", 1)])?;
    let narrow = sizes.any(&[("encoder.conv_in.weight", 0), ("decoder.conv_out.weight", 1)])?;
    let latent = sizes.dim("decoder.conv_in.weight", 1);
    let latent = latent.or_else(|| sizes.dim("encoder.conv_out.weight", 0)?.checked_div(2))?;
    if (narrow, wide) != (128, 512) || !matches!(latent, 4 | 16) {
        return None;
    }
    Some(json!({
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "layers_per_block": 2,
        "latent_channels": latent,
        "use_quant_conv": latent == 4,
        "use_post_quant_conv": latent == 4,
    }))
}

/// CLIP-L, OpenCLIP-H as SD2 uses it, OpenCLIP-G. L comes with and without a projection.
fn clip(kind: ComponentKind, base: Base, sizes: &Sizes<'_>) -> Option<Value> {
    let width = sizes.any(&[
        ("text_model.embeddings.token_embedding.weight", 1),
        ("text_model.embeddings.position_embedding.weight", 1),
        ("text_model.final_layer_norm.weight", 0),
    ])?;
    let layers = match (width, base) {
        (768, _) => 12,
        (1024, Base::Sd21) => 23,
        (1024, _) => 24,
        (1280, _) => 32,
        _ => return None,
    };
    let is_projected = sizes.0.get("text_projection.weight").is_some() || kind == ComponentKind::TextEncoder2;
    let class = if is_projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    Some(json!({
        "architectures": [class],
        "hidden_size": width,
        "intermediate_size": width.checked_mul(4)?,
        "num_hidden_layers": layers,
        "projection_dim": width,
    }))
}

/// The encoder of T5 XXL 1.1, the only one that image models use.
fn t5(sizes: &Sizes<'_>) -> Option<Value> {
    let width = sizes.any(&[("shared.weight", 1), ("encoder.final_layer_norm.weight", 0)])?;
    let is_xxl = width == 4096 && sizes.count_from("encoder.block.") == 24;
    is_xxl.then(|| {
        json!({
            "model_type": "t5", "vocab_size": 32_128, "d_model": width, "d_kv": 64, "d_ff": 10_240, "num_layers": 24,
            "num_heads": 64, "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32,
        })
    })
}

/// SD3 medium, 3.5 medium (a second attention in its first 13 blocks) and 3.5 large.
fn mmdit(sizes: &Sizes<'_>) -> Option<Value> {
    let width = sizes.any(&[("pos_embed.proj.weight", 0), ("proj_out.weight", 1)])?;
    let blocks = sizes.count_from("transformer_blocks.");
    let is_dual = sizes.has(".attn2.");
    let side = match (blocks, width, is_dual) {
        (24, 1536, true) => 384,
        (24, 1536, false) | (38, 2432, false) => 192,
        _ => return None,
    };
    let dual: Vec<u64> = if is_dual { (0..13).collect() } else { Vec::new() };
    let norms = (is_dual || blocks == 38).then_some("rms_norm");
    Some(json!({
        "_class_name": "SD3Transformer2DModel",
        "num_layers": blocks,
        "num_attention_heads": blocks,
        "caption_projection_dim": width,
        "pos_embed_max_size": side,
        "dual_attention_layers": dual,
        "qk_norm": norms,
    }))
}

/// FLUX.1 dev, schnell (no guidance), and the variants with more inputs.
fn flux(sizes: &Sizes<'_>) -> Option<Value> {
    let width = sizes.any(&[("x_embedder.weight", 0), ("proj_out.weight", 1), ("context_embedder.weight", 0)])?;
    let is_known = width == 3072
        && sizes.count_from("transformer_blocks.") == 19
        && sizes.count_from("single_transformer_blocks.") == 38;
    let inputs = sizes.dim("x_embedder.weight", 1).filter(|inputs| matches!(inputs, 128 | 384)).unwrap_or(64);
    is_known.then(|| {
        json!({
            "_class_name": "FluxTransformer2DModel",
            "in_channels": inputs,
            "out_channels": 64,
            "guidance_embeds": sizes.has("guidance_embedder"),
        })
    })
}
