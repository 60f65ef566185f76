//! Text encoders: CLIP in transformers' names with and without `text_model.`, OpenCLIP with one matrix for query,
//! key and value and its projection transposed, and T5, whose names are the same everywhere.

use super::{Naming, place::Place};
use crate::{inspection::TensorFacts, vocab::Base};

/// Prefixes of text encoders in checkpoints; longer ones before those that begin alike.
pub(super) const PREFIXES: &[&str] = &[
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.transformer.",
    "conditioner.embedders.1.model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
];
/// Width and number of the layers that SD2 uses of OpenCLIP-H.
const H_WIDTH: u64 = 1024;
const H_LAYERS: u64 = 23;
/// The embedding of T5: its own name, and the encoder's.
const T5_SHARED: &str = "shared.weight";
const T5_EMBEDDING: &str = "encoder.embed_tokens.weight";
const OPEN_LAYERS: &str = "transformer.resblocks.";
/// Modules of a layer in OpenCLIP's and transformers' names.
const LAYER: &[(&str, &str)] = &[
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// The names of a text encoder.
#[derive(Debug)]
pub(super) struct Clip {
    /// In OpenCLIP's names: the layers that are used.
    open_layers: Option<u64>,
    has_projection: bool,
    /// T5 keeps one matrix under two names, of which files have either or both.
    has_shared: bool,
}

impl Clip {
    /// Recognises the naming. SD2 uses the output before the last layer, so diffusers keeps neither that layer
    /// nor the projection. An encoder that the split of its model has already freed of both has no projection to go by
    /// and keeps what it has: reading the canonical form of a canonical form changes nothing.
    pub(super) fn new(base: Base, names: &[&str], tensors: &[TensorFacts]) -> Self {
        let layer = |name: &&str| name.strip_prefix(OPEN_LAYERS)?.split('.').next()?.parse::<u64>().ok();
        let layers = names.iter().filter_map(layer).max().map(|last| last.saturating_add(1));
        let width = tensors.iter().zip(names).find(|(_, name)| **name == "positional_embedding");
        let is_h = width.is_some_and(|(tensor, _)| tensor.shape.get(1) == Some(&H_WIDTH));
        let used = |layers: u64| match (base, is_h) {
            (Base::Sd21, true) => layers.min(H_LAYERS),
            (Base::Sd21, false) if names.contains(&"text_projection") => layers.saturating_sub(1),
            _ => layers,
        };
        Self {
            open_layers: layers.map(used),
            has_projection: base != Base::Sd21,
            has_shared: names.contains(&T5_SHARED),
        }
    }

    fn open(&self, name: &str, used: u64) -> Option<Place> {
        match name {
            "token_embedding.weight" => return Some(Place::same("text_model.embeddings.token_embedding.weight")),
            "positional_embedding" => return Some(Place::same("text_model.embeddings.position_embedding.weight")),
            "text_projection" if self.has_projection => {
                return Some(Place::Transposed("text_projection.weight".to_owned()));
            }
            "text_projection" | "attn_mask" => return Some(Place::Ignored),
            _ => {}
        }
        if let Some(leaf) = name.strip_prefix("ln_final.") {
            return Some(Place::Same(format!("text_model.final_layer_norm.{leaf}")));
        }
        let (number, rest) = name.strip_prefix(OPEN_LAYERS)?.split_once('.')?;
        let number: u64 = number.parse().ok()?;
        if number >= used { Some(Place::Ignored) } else { layer(number, rest) }
    }
}

impl Naming for Clip {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        if name == "logit_scale" || name.ends_with("position_ids") {
            return Some(Place::Ignored);
        }
        match self.open_layers {
            Some(used) => self.open(name, used),
            None if name == T5_EMBEDDING && self.has_shared => Some(Place::Ignored),
            None if name == T5_EMBEDDING => Some(Place::same(T5_SHARED)),
            None => Some(Place::Same(with_model(name))),
        }
    }
}

/// Newer versions of transformers leave `text_model.` out.
fn with_model(name: &str) -> String {
    let is_bare = ["embeddings.", "encoder.layers.", "final_layer_norm."].iter().any(|part| name.starts_with(part));
    if is_bare { format!("text_model.{name}") } else { name.to_owned() }
}

fn layer(number: u64, rest: &str) -> Option<Place> {
    let path = format!("text_model.encoder.layers.{number}");
    if let Some(leaf) = rest.strip_prefix("attn.in_proj_") {
        return Some(Place::Equal(["q", "k", "v"].map(|part| format!("{path}.self_attn.{part}_proj.{leaf}")).to_vec()));
    }
    let (module, leaf) = rest.rsplit_once('.')?;
    let (_, module) = LAYER.iter().find(|(open, _)| *open == module)?;
    Some(Place::Same(format!("{path}.{module}.{leaf}")))
}
