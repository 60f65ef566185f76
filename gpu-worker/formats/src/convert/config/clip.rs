//! `text_encoder/config.json`: sizes of the tensors; heads and activation, which leave no trace in them, of the family.

use serde_json::{Value, json};

use super::{count, side};
use crate::{
    canonical::Canonical,
    vocab::{Base, ComponentKind},
};

const TRANSFORMERS: &str = "4.32.0";
/// Width of a head in every released CLIP text encoder.
const HEAD: u64 = 64;
/// Narrower encoders than any release are reduced models, which have this many heads: the engine reads a single file of theirs by the
/// same rule.
const NARROWEST: u64 = 512;
const REDUCED_HEADS: u64 = 4;

/// The config; why there is none otherwise.
pub(super) fn config(canonical: &Canonical, base: Base, kind: ComponentKind) -> Result<Value, String> {
    let tokens = "text_model.embeddings.token_embedding.weight";
    let width = side(canonical, tokens, 1)?;
    let heads = if width < NARROWEST { REDUCED_HEADS } else { width.checked_div(HEAD).unwrap_or(0) };
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("a width of {width} is not that of a CLIP text encoder"));
    }
    let projection = canonical.get("text_projection.weight").and_then(|tensor| tensor.shape.first()).copied();
    let class = if projection.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    let stored = canonical.tensors.first().map_or("F32", |tensor| tensor.dtype.as_str());
    Ok(json!({
        "architectures": [class],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        // the releases' number: pooling then looks for the highest token, which the end mark is
        "eos_token_id": 2,
        "hidden_act": activation(width, kind, base),
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": side(canonical, "text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": side(canonical, "text_model.embeddings.position_embedding.weight", 0)?,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": count(canonical, "text_model.encoder.layers."),
        "pad_token_id": 1,
        "projection_dim": projection.unwrap_or(width),
        "torch_dtype": torch_name(stored),
        "transformers_version": TRANSFORMERS,
        "vocab_size": side(canonical, tokens, 0)?,
    }))
}

fn torch_name(stored: &str) -> &'static str {
    match stored {
        "F16" => "float16",
        "BF16" => "bfloat16",
        _ => "float32",
    }
}

/// CLIP-L is OpenAI's, H and bigG are OpenCLIP's. Widths tell the releases apart, the family tells reduced models.
fn activation(width: u64, kind: ComponentKind, base: Base) -> &'static str {
    match (width, base, kind) {
        (768, ..) => "quick_gelu",
        (1024 | 1280, ..) | (_, Base::Sd21 | Base::SdxlRefiner, _) | (_, Base::Sdxl, ComponentKind::TextEncoder2) => {
            "gelu"
        }
        _ => "quick_gelu",
    }
}
