//! Text encoders as single files have them: CLIP-L under transformers' names, OpenCLIP with one matrix for query, key and value and
//! its projection transposed.

use super::Original;
use crate::{
    canonical::{Canonical, CanonicalTensor},
    vocab::{Base, ComponentKind},
};

const LAYERS: &str = "text_model.encoder.layers.";
/// Modules outside the layers: transformers' name, OpenCLIP's.
const OUTSIDE: &[(&str, &str)] = &[
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.weight", "ln_final.weight"),
    ("text_model.final_layer_norm.bias", "ln_final.bias"),
];
/// Modules of a layer: transformers' name, OpenCLIP's.
const LAYER: &[(&str, &str)] = &[
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];
const QUERY: &str = "self_attn.q_proj.";
const KEY: &str = "self_attn.k_proj.";
const VALUE: &str = "self_attn.v_proj.";
const PROJECTION: &str = "text_projection.weight";

/// All tensors; the name for which there is none otherwise.
pub(super) fn originals(
    kind: ComponentKind,
    base: Base,
    canonical: &Canonical,
    alone: bool,
) -> Result<Vec<Original>, String> {
    let prefix = match (alone, base, kind) {
        // on its own an encoder goes by transformers' names in every tool
        (true, ..) => return Ok(plain("", canonical)),
        (_, Base::Sd15, ComponentKind::TextEncoder) => return Ok(plain("cond_stage_model.transformer.", canonical)),
        (_, Base::Sdxl, ComponentKind::TextEncoder) => {
            return Ok(plain("conditioner.embedders.0.transformer.", canonical));
        }
        (_, Base::Sd21, ComponentKind::TextEncoder) => "cond_stage_model.model.",
        (_, Base::Sdxl, ComponentKind::TextEncoder2) => "conditioner.embedders.1.model.",
        (_, Base::SdxlRefiner, ComponentKind::TextEncoder2) => "conditioner.embedders.0.model.",
        _ => return Err(String::new()),
    };
    let mut made = Vec::with_capacity(canonical.tensors.len());
    for (index, tensor) in canonical.tensors.iter().enumerate() {
        made.extend(open(prefix, index, tensor, canonical).ok_or_else(|| tensor.name.clone())?);
    }
    Ok(made)
}

fn plain(prefix: &str, canonical: &Canonical) -> Vec<Original> {
    let named = |(index, tensor): (usize, &CanonicalTensor)| {
        Original::renamed(format!("{prefix}{}", tensor.name), index, &tensor.shape)
    };
    canonical.tensors.iter().enumerate().map(named).collect()
}

/// What a tensor gives in OpenCLIP's names: key and value are in the query's.
fn open(prefix: &str, index: usize, tensor: &CanonicalTensor, all: &Canonical) -> Option<Vec<Original>> {
    let name = tensor.name.as_str();
    if name == PROJECTION {
        let [rows, cols] = *tensor.shape.as_slice() else { return None };
        let name = format!("{prefix}text_projection");
        return Some(vec![Original { name, shape: vec![cols, rows], from: vec![index], is_transposed: true }]);
    }
    let renamed = |open: &str| Some(vec![Original::renamed(format!("{prefix}{open}"), index, &tensor.shape)]);
    if let Some((_, open)) = OUTSIDE.iter().find(|(hf, _)| *hf == name) {
        return renamed(open);
    }
    let (number, rest) = name.strip_prefix(LAYERS)?.split_once('.')?;
    let layer = format!("transformer.resblocks.{}", number.parse::<u64>().ok()?);
    if let Some(leaf) = rest.strip_prefix(QUERY) {
        let from = [QUERY, KEY, VALUE].map(|part| position(all, &format!("{LAYERS}{number}.{part}{leaf}")));
        return fused(format!("{prefix}{layer}.attn.in_proj_{leaf}"), from, all).map(|fused| vec![fused]);
    }
    if [KEY, VALUE].iter().any(|part| rest.starts_with(part)) {
        return Some(Vec::new());
    }
    let (module, leaf) = rest.rsplit_once('.')?;
    let (_, module) = LAYER.iter().find(|(hf, _)| *hf == module)?;
    renamed(&format!("{layer}.{module}.{leaf}"))
}

fn position(all: &Canonical, name: &str) -> Option<usize> {
    all.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()
}

/// The rows of three tensors of one shape. Their types may differ.
fn fused(name: String, from: [Option<usize>; 3], all: &Canonical) -> Option<Original> {
    let from = from.into_iter().collect::<Option<Vec<_>>>()?;
    let parts = from.iter().map(|index| all.tensors.get(*index)).collect::<Option<Vec<_>>>()?;
    let first = parts.first()?;
    let is_same = parts.iter().all(|part| part.shape == first.shape);
    let mut shape = first.shape.clone();
    let rows = shape.first_mut()?;
    *rows = rows.checked_mul(3)?;
    is_same.then_some(Original { name, shape, from, is_transposed: false })
}
