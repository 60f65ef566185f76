//! CLIP text encoders: with the names of transformers in both layouts, or of OpenCLIP in the original one.

use super::{Place, Stored, Weights};
use crate::dev::{
    sizes::{ClipSize, POSITIONS},
    values::Fill,
};

/// How the original layout names a text encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dev) enum Naming {
    /// As transformers does, and nothing else: files of one encoder.
    Hf,
    /// As transformers does, with the position numbers that old versions stored: checkpoints.
    HfWithPositions,
    /// As OpenCLIP does: one matrix for query, key and value, the projection transposed, with the temperature
    /// of its training.
    OpenClip,
}

/// A text encoder.
pub(in crate::dev) fn clip(size: &ClipSize, naming: Naming) -> Weights {
    let mut weights = Weights::new(size.key);
    embeddings(&mut weights, size, naming);
    for layer in 0..size.layers + size.spare_layers {
        let diffusers = format!("text_model.encoder.layers.{layer}");
        let original = match naming {
            Naming::OpenClip => format!("transformer.resblocks.{layer}"),
            _ => diffusers.clone(),
        };
        let place = Place::root().at(diffusers, original);
        let place = if layer < size.layers { place } else { place.only_original() };
        match naming {
            Naming::OpenClip => open_clip_layer(&mut weights, &place, size.width),
            _ => hf_layer(&mut weights, &place, size.width),
        }
    }
    tail(&mut weights, size, naming);
    weights
}

fn embeddings(weights: &mut Weights, size: &ClipSize, naming: Naming) {
    let (root, is_open) = (Place::root(), matches!(naming, Naming::OpenClip));
    let token = "text_model.embeddings.token_embedding.weight";
    let position = "text_model.embeddings.position_embedding.weight";
    let token = root.at(token, if is_open { "token_embedding.weight" } else { token });
    let position = root.at(position, if is_open { "positional_embedding" } else { position });
    weights.push(token, &[size.vocabulary, size.width], Stored::Same, Fill::EMBEDDING);
    weights.push(position, &[POSITIONS, size.width], Stored::Same, Fill::EMBEDDING);
    if naming == Naming::HfWithPositions {
        let numbers = root.both("text_model.embeddings.position_ids").only_original();
        weights.push(numbers, &[1, POSITIONS], Stored::Same, Fill::Positions);
    }
}

fn hf_layer(weights: &mut Weights, place: &Place, width: u64) {
    weights.norm(&place.both("layer_norm1"), width);
    for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
        weights.linear(&place.both("self_attn").both(name), width, width);
    }
    weights.norm(&place.both("layer_norm2"), width);
    weights.linear(&place.both("mlp.fc1"), width, width * 4);
    weights.linear(&place.both("mlp.fc2"), width * 4, width);
}

fn open_clip_layer(weights: &mut Weights, place: &Place, width: u64) {
    weights.norm(&place.at("layer_norm1", "ln_1"), width);
    for name in ["q_proj", "k_proj", "v_proj"] {
        let matrix = place.at(format!("self_attn.{name}.weight"), "attn.in_proj_weight");
        weights.push(matrix, &[width, width], Stored::Rows, Fill::by_inputs(width));
        let bias = place.at(format!("self_attn.{name}.bias"), "attn.in_proj_bias");
        weights.push(bias, &[width], Stored::Rows, Fill::BIAS);
    }
    weights.linear(&place.at("self_attn.out_proj", "attn.out_proj"), width, width);
    weights.norm(&place.at("layer_norm2", "ln_2"), width);
    weights.linear(&place.at("mlp.fc1", "mlp.c_fc"), width, width * 4);
    weights.linear(&place.at("mlp.fc2", "mlp.c_proj"), width * 4, width);
}

fn tail(weights: &mut Weights, size: &ClipSize, naming: Naming) {
    let (root, norm) = (Place::root(), "text_model.final_layer_norm");
    let is_open = matches!(naming, Naming::OpenClip);
    weights.norm(&root.at(norm, if is_open { "ln_final" } else { norm }), size.width);
    if is_open || size.projected {
        let (original, stored) =
            if is_open { ("text_projection", Stored::Transposed) } else { ("text_projection.weight", Stored::Same) };
        let place = root.at("text_projection.weight", original);
        let place = if size.projected { place } else { place.only_original() };
        weights.push(place, &[size.width, size.width], stored, Fill::by_inputs(size.width));
    }
    if is_open {
        // ln(100), where CLIP's training clips it
        weights.push(root.both("logit_scale").only_original(), &[], Stored::Same, Fill::Exact(4.605_17));
    }
}
