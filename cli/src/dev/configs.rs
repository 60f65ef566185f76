//! Configs as diffusers and transformers write them.

use serde_json::{Map, Value, json};

use super::{
    options::Precision,
    sizes::{ClipSize, POSITIONS, UnetSize, VaeSize},
};

/// The diffusers version whose form the configs have.
pub(super) const DIFFUSERS: &str = "0.19.0";
const TRANSFORMERS: &str = "4.32.0";

/// `unet/config.json`.
pub(super) fn unet(size: &UnetSize) -> Value {
    let block =
        |attention: bool, with: &str, without: &str| if attention { with.to_owned() } else { without.to_owned() };
    let down = |depth: &u64| block(*depth > 0, "CrossAttnDownBlock2D", "DownBlock2D");
    let up = |depth: &u64| block(*depth > 0, "CrossAttnUpBlock2D", "UpBlock2D");
    let equal = size.heads.windows(2).all(|pair| pair.first() == pair.last());
    let heads = if equal { json!(size.heads.first()) } else { json!(size.heads) };
    let mut config = object(json!({
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": size.channels,
        "center_input_sample": false,
        "cross_attention_dim": size.context,
        "down_block_types": size.depth.iter().map(down).collect::<Vec<_>>(),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": size.layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "only_cross_attention": false,
        "out_channels": 4,
        "resnet_time_scale_shift": "default",
        "sample_size": size.sample,
        "up_block_types": size.depth.iter().rev().map(up).collect::<Vec<_>>(),
        "upcast_attention": false,
        "use_linear_projection": size.linear_projection,
    }));
    if let Some((inputs, each)) = size.added {
        config.extend(object(json!({
            "addition_embed_type": "text_time",
            "addition_embed_type_num_heads": 64,
            "addition_time_embed_dim": each,
            "projection_class_embeddings_input_dim": inputs,
            "transformer_layers_per_block": transformer_layers(size),
        })));
    }
    Value::Object(config)
}

/// Levels without attention are written as 1; the middle takes the last entry, the way up the list backwards.
fn transformer_layers(size: &UnetSize) -> Value {
    let last = size.depth.len().saturating_sub(1);
    let depth = |(level, depth): (usize, &u64)| match *depth {
        0 if level == last => size.mid_depth,
        0 => 1,
        depth => depth,
    };
    json!(size.depth.iter().enumerate().map(depth).collect::<Vec<_>>())
}

/// `vae/config.json`.
pub(super) fn vae(size: &VaeSize) -> Value {
    let levels = size.channels.len();
    let mut config = object(json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "block_out_channels": size.channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "force_upcast": size.force_upcast,
        "in_channels": 3,
        "latent_channels": size.latent,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": size.sample,
        "scaling_factor": size.scaling,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
    }));
    if !size.quant {
        config.extend(object(json!({ "use_quant_conv": false, "use_post_quant_conv": false })));
    }
    if let Some(shift) = size.shift {
        config.insert("shift_factor".to_owned(), json!(shift));
    }
    Value::Object(config)
}

/// `config.json` of the tiny autoencoder.
pub(super) fn taesd(channels: u64) -> Value {
    json!({
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "relu",
        "decoder_block_out_channels": vec![channels; 4],
        "encoder_block_out_channels": vec![channels; 4],
        "force_upcast": false,
        "in_channels": 3,
        "latent_channels": 4,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": [3, 3, 3, 1],
        "num_encoder_blocks": [1, 3, 3, 3],
        "out_channels": 3,
        "scaling_factor": 1.0,
        "upsampling_scaling_factor": 2,
    })
}

/// `text_encoder/config.json`.
pub(super) fn clip(size: &ClipSize, precision: Precision) -> Value {
    let class = if size.projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    json!({
        "architectures": [class],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        // the releases' number: pooling then looks for the highest token, which the end mark is
        "eos_token_id": 2,
        "hidden_act": size.activation,
        "hidden_size": size.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": size.width * 4,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": POSITIONS,
        "model_type": "clip_text_model",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "pad_token_id": 1,
        "projection_dim": size.width,
        "torch_dtype": precision.torch_name(),
        "transformers_version": TRANSFORMERS,
        "vocab_size": size.vocabulary,
    })
}

/// `config.json` of a ControlNet.
pub(super) fn controlnet(size: &UnetSize, hint: &[u64]) -> Value {
    let mut config = object(unet(size));
    for not_there in ["center_input_sample", "out_channels", "sample_size", "up_block_types", "upcast_attention"] {
        config.remove(not_there);
    }
    config.extend(object(json!({
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": hint,
        "controlnet_conditioning_channel_order": "rgb",
    })));
    Value::Object(config)
}

/// Which scheduler a family ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheduler {
    /// SD 1.5.
    Pndm,
    /// SD 2.1 for 768 pixels.
    DdimV,
    /// SDXL.
    Euler,
}

impl Scheduler {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Pndm => "PNDMScheduler",
            Self::DdimV => "DDIMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
        }
    }

    /// `scheduler/scheduler_config.json`.
    pub(super) fn config(self) -> Value {
        let mut config = object(json!({
            "_class_name": self.class(),
            "_diffusers_version": DIFFUSERS,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "num_train_timesteps": 1000,
            "prediction_type": if self == Self::DdimV { "v_prediction" } else { "epsilon" },
            "steps_offset": 1,
            "trained_betas": null,
        }));
        config.extend(object(match self {
            Self::Pndm => json!({ "set_alpha_to_one": false, "skip_prk_steps": true }),
            Self::DdimV => json!({ "clip_sample": false, "set_alpha_to_one": false }),
            Self::Euler => json!({
                "interpolation_type": "linear", "timestep_spacing": "leading", "use_karras_sigmas": false,
            }),
        }));
        Value::Object(config)
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
