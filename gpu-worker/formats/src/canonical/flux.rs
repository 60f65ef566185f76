//! The transformer of FLUX.1 in its original naming.

use std::collections::BTreeMap;

use super::{Naming, place::Place};
use crate::inspection::TensorFacts;

/// Modules outside the blocks.
const OUTSIDE: &[(&str, &str)] = &[
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("final_layer.linear", "proj_out"),
];
/// Modules of a double block.
const DOUBLE: &[(&str, &str)] = &[
    ("img_mod.lin", "norm1.linear"),
    ("txt_mod.lin", "norm1_context.linear"),
    ("img_attn.proj", "attn.to_out.0"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
    ("img_mlp.0", "ff.net.0.proj"),
    ("img_mlp.2", "ff.net.2"),
    ("txt_mlp.0", "ff_context.net.0.proj"),
    ("txt_mlp.2", "ff_context.net.2"),
];
/// Modules of a single block.
const SINGLE: &[(&str, &str)] = &[
    ("modulation.lin", "norm.linear"),
    ("linear2", "proj_out"),
    ("norm.query_norm", "attn.norm_q"),
    ("norm.key_norm", "attn.norm_k"),
];

/// The original naming.
#[derive(Debug)]
pub(super) struct Original {
    /// The transformer's width by single block: the rows of its output layer.
    widths: BTreeMap<u64, u64>,
}

impl Original {
    pub(super) fn new(names: &[&str], tensors: &[TensorFacts]) -> Self {
        let width = |(name, tensor): (&&str, &TensorFacts)| {
            let number = name.strip_prefix("single_blocks.")?.strip_suffix(".linear2.weight")?.parse().ok()?;
            Some((number, *tensor.shape.first()?))
        };
        Self { widths: names.iter().zip(tensors).filter_map(width).collect() }
    }

    /// `linear1` holds query, key, value and, in the rest of its rows, the feed-forward layer's first half.
    fn single(&self, number: u64, rest: &str, tensor: &TensorFacts) -> Option<Place> {
        let path = format!("single_transformer_blocks.{number}");
        let (module, leaf) = rest.rsplit_once('.')?;
        if module == "linear1" {
            let width = *self.widths.get(&number)?;
            let hidden = tensor.shape.first()?.checked_sub(width.checked_mul(3)?)?;
            let parts = [("attn.to_q", width), ("attn.to_k", width), ("attn.to_v", width), ("proj_mlp", hidden)];
            return Some(Place::Rows(parts.map(|(part, rows)| (format!("{path}.{part}.{leaf}"), rows)).to_vec()));
        }
        renamed(SINGLE, &path, module, leaf)
    }
}

impl Naming for Original {
    fn place(&self, name: &str, tensor: &TensorFacts) -> Option<Place> {
        if let Some(rest) = name.strip_prefix("double_blocks.") {
            let (number, rest) = rest.split_once('.')?;
            return double(number.parse().ok()?, rest);
        }
        if let Some(rest) = name.strip_prefix("single_blocks.") {
            let (number, rest) = rest.split_once('.')?;
            return self.single(number.parse().ok()?, rest, tensor);
        }
        let (module, leaf) = name.rsplit_once('.')?;
        if module == "final_layer.adaLN_modulation.1" {
            return Some(Place::Swapped(format!("norm_out.linear.{leaf}")));
        }
        let (_, to) = OUTSIDE.iter().find(|(from, _)| *from == module)?;
        Some(Place::Same(format!("{to}.{leaf}")))
    }
}

fn double(number: u64, rest: &str) -> Option<Place> {
    let path = format!("transformer_blocks.{number}");
    let (module, leaf) = rest.rsplit_once('.')?;
    let fused = match module {
        "img_attn.qkv" => ["to_q", "to_k", "to_v"],
        "txt_attn.qkv" => ["add_q_proj", "add_k_proj", "add_v_proj"],
        module => return renamed(DOUBLE, &path, module, leaf),
    };
    Some(Place::Equal(fused.map(|part| format!("{path}.attn.{part}.{leaf}")).to_vec()))
}

/// The norms of queries and keys call their weight `scale`.
fn renamed(table: &[(&str, &str)], path: &str, module: &str, leaf: &str) -> Option<Place> {
    let (_, to) = table.iter().find(|(from, _)| *from == module)?;
    let leaf = if leaf == "scale" { "weight" } else { leaf };
    Some(Place::Same(format!("{path}.{to}.{leaf}")))
}
