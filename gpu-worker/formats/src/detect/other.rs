//! Embeddings, upscalers, and what no rule matches.

use super::Verdict;
use crate::{
    keys::Keys,
    vocab::{Base, ModelType},
};

/// Most vectors of a textual inversion; more is some other matrix.
const MAX_VECTORS: u64 = 256;

/// A file without tensors.
pub(super) fn empty(keys: &Keys<'_>) -> Option<Verdict> {
    (keys.len() == 0).then(|| Verdict::unknown("holds no tensors"))
}

/// Textual inversion in the A1111, SDXL or diffusers form.
pub(super) fn embedding(keys: &Keys<'_>) -> Option<Verdict> {
    let scope = keys.scope("");
    if let (Some(first), Some(second)) = (scope.shape("clip_l"), scope.shape("clip_g")) {
        let mut verdict = Verdict::of(ModelType::Embedding);
        verdict.saw("embedding.two_encoders", "clip_l", first.to_vec());
        verdict.saw("embedding.two_encoders", "clip_g", second.to_vec());
        verdict.fact("vectors", first.first().copied());
        verdict.base = Base::Sdxl;
        return Some(verdict);
    }
    let named = keys.iter().find(|(name, _)| *name == "emb_params" || name.starts_with("string_to_param."));
    let only = if keys.len() == 1 { keys.iter().next() } else { None };
    let (name, tensor) = named.or(only)?;
    let (vectors, width) = match tensor.shape.as_slice() {
        [width] if tensor.dtype.is_float() => (1, *width),
        [vectors, width] if tensor.dtype.is_float() && *vectors <= MAX_VECTORS => (*vectors, *width),
        _ => return None,
    };
    let mut verdict = Verdict::of(ModelType::Embedding);
    verdict.saw("embedding.vectors", name, tensor.shape.clone());
    verdict.fact("vectors", vectors);
    verdict.base = match width {
        768 => Base::Sd15,
        1024 => Base::Sd21,
        _ => Base::Unknown,
    };
    if verdict.base == Base::Unknown {
        verdict.reason = Some(format!("base unknown: no known family's text encoder is {width} wide and used alone"));
    }
    Some(verdict)
}

/// Image upscalers of the ESRGAN and SwinIR kinds.
pub(super) fn upscaler(keys: &Keys<'_>) -> Option<Verdict> {
    let tells = [
        ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight", "esrgan"),
        ("conv_first.weight", "body.0.rdb1.conv1.weight", "real-esrgan"),
        ("conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "esrgan"),
        ("conv_first.weight", "layers.0.residual_group.blocks.0.norm1.weight", "swinir"),
    ];
    let found = ["", "params_ema.", "params."].into_iter().find_map(|prefix| {
        let scope = keys.scope(prefix);
        let (_, key, kind) = tells.into_iter().find(|(key, also, _)| scope.has(key) && scope.has(also))?;
        Some((scope.full(key), kind))
    });
    let (key, kind) = found?;
    let mut verdict = Verdict::of(ModelType::Upscaler);
    verdict.saw("upscaler.layout", key, kind);
    verdict.fact("architecture", kind);
    verdict.reason = Some("an upscaler works on images: it belongs to no family".to_owned());
    Some(verdict)
}

/// Unknown, because no rule answered.
pub(super) fn nothing_matched(keys: &Keys<'_>) -> Verdict {
    Verdict::unknown(format!("no rule matches its {} tensors", keys.len()))
}

/// A sample of the names, for whoever wonders why nothing matched.
pub(super) fn sample(verdict: &mut Verdict, keys: &Keys<'_>) {
    verdict.saw("unknown.tensors", "header", keys.len());
    for (name, tensor) in keys.iter().take(3) {
        verdict.saw("unknown.sample", name, tensor.shape.clone());
    }
}
