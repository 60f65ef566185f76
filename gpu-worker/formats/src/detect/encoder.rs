//! Text encoders and image encoders on their own.

use serde_json::{Value, json};

use super::Verdict;
use crate::{
    keys::{Keys, Scope},
    vocab::ModelType,
};

/// Why a text encoder has no base of its own.
const SHARED: &str = "base unknown: text encoders are shared by several families";

/// A CLIP text encoder (HF or OpenCLIP naming), a T5 encoder, or a CLIP image encoder.
pub(super) fn encoder(keys: &Keys<'_>, config: Option<&Value>) -> Option<Verdict> {
    let scope = keys.scope("");
    hf_clip(scope, config).or_else(|| open_clip(scope)).or_else(|| t5(scope)).or_else(|| vision(scope))
}

fn text_encoder(rule: &'static str, key: &str, family: &str, value: Value) -> Verdict {
    let mut verdict = Verdict::of(ModelType::TextEncoder);
    verdict.saw(rule, key, value);
    verdict.fact("encoder", family);
    verdict.reason = Some(SHARED.to_owned());
    verdict
}

/// HF naming, with or without the `text_model.` prefix (newer writers leave it out).
fn hf_clip(scope: Scope<'_, '_>, config: Option<&Value>) -> Option<Verdict> {
    let prefix = ["text_model.", ""].into_iter().find(|prefix| {
        scope.has(&format!("{prefix}encoder.layers.0.layer_norm1.weight"))
            && scope.has(&format!("{prefix}embeddings.token_embedding.weight"))
    })?;
    let embedding = format!("{prefix}embeddings.token_embedding.weight");
    let layers = scope.run_length(|layer| format!("{prefix}encoder.layers.{layer}.layer_norm1.weight"));
    let width = scope.dim(&embedding, 1);
    let family = clip_family(layers, width, config);
    let mut verdict =
        text_encoder("text_encoder.clip_hf", &embedding, family, json!({ "layers": layers, "width": width }));
    if scope.has("vision_model.embeddings.class_embedding") {
        verdict.saw(
            "text_encoder.full_clip",
            "vision_model.embeddings.class_embedding",
            "also holds the image encoder",
        );
    }
    Some(verdict)
}

/// Layers tell the releases apart; reduced models by their width or, beside a config, the activation
/// (only CLIP-L uses `quick_gelu`).
fn clip_family(layers: usize, width: Option<u64>, config: Option<&Value>) -> &'static str {
    let activation = config.and_then(|config| config.get("hidden_act")).and_then(Value::as_str);
    match (layers, width, activation) {
        (31.., _, _) | (_, Some(1280), _) => "clip-g",
        (23..=30, _, _) | (_, Some(1024), _) => "clip-h",
        (12, _, _) | (_, Some(768), _) | (_, _, Some("quick_gelu")) => "clip-l",
        _ => "clip",
    }
}

fn open_clip(scope: Scope<'_, '_>) -> Option<Verdict> {
    let prefix = ["", "model."].into_iter().find(|prefix| {
        scope.has(&format!("{prefix}transformer.resblocks.0.ln_1.weight"))
            && scope.has(&format!("{prefix}token_embedding.weight"))
    })?;
    let embedding = format!("{prefix}token_embedding.weight");
    let layers = scope.run_length(|layer| format!("{prefix}transformer.resblocks.{layer}.ln_1.weight"));
    let width = scope.dim(&embedding, 1);
    let family = match (layers, width) {
        (31.., _) | (_, Some(1280)) => "open-clip-g",
        (23..=30, _) | (_, Some(1024)) => "open-clip-h",
        _ => "open-clip",
    };
    Some(text_encoder("text_encoder.open_clip", &embedding, family, json!({ "layers": layers, "width": width })))
}

fn t5(scope: Scope<'_, '_>) -> Option<Verdict> {
    let key = "encoder.block.0.layer.0.SelfAttention.q.weight";
    if !scope.has(key) {
        return None;
    }
    let blocks = scope.run_length(|block| format!("encoder.block.{block}.layer.0.SelfAttention.q.weight"));
    let width = scope.dim("shared.weight", 1).or_else(|| scope.dim(key, 1));
    let family = if blocks == 24 && width == Some(4096) { "t5-xxl" } else { "t5" };
    Some(text_encoder("text_encoder.t5", key, family, json!({ "blocks": blocks, "width": width })))
}

fn vision(scope: Scope<'_, '_>) -> Option<Verdict> {
    let keys = ["vision_model.embeddings.class_embedding", "visual.class_embedding", "visual.proj"];
    let key = keys.into_iter().find(|key| scope.has(key))?;
    let mut verdict = Verdict::of(ModelType::ImageEncoder);
    verdict.saw("image_encoder.clip", key, scope.shape(key).unwrap_or_default().to_vec());
    verdict.reason = Some("base unknown: image encoders are shared by several families".to_owned());
    Some(verdict)
}
