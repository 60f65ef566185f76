//! The transformer of SD3 and SD3.5 in its original naming.

use std::collections::BTreeSet;

use super::{Naming, place::Place};
use crate::inspection::TensorFacts;

/// Modules outside the blocks.
const OUTSIDE: &[(&str, &str)] = &[
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "context_embedder"),
    ("final_layer.linear", "proj_out"),
];
/// Modules of a block.
const BLOCK: &[(&str, &str)] = &[
    ("x_block.attn.proj", "attn.to_out.0"),
    ("x_block.attn.ln_q", "attn.norm_q"),
    ("x_block.attn.ln_k", "attn.norm_k"),
    ("x_block.attn2.proj", "attn2.to_out.0"),
    ("x_block.attn2.ln_q", "attn2.norm_q"),
    ("x_block.attn2.ln_k", "attn2.norm_k"),
    ("x_block.adaLN_modulation.1", "norm1.linear"),
    ("x_block.mlp.fc1", "ff.net.0.proj"),
    ("x_block.mlp.fc2", "ff.net.2"),
    ("context_block.attn.proj", "attn.to_add_out"),
    ("context_block.attn.ln_q", "attn.norm_added_q"),
    ("context_block.attn.ln_k", "attn.norm_added_k"),
    ("context_block.adaLN_modulation.1", "norm1_context.linear"),
    ("context_block.mlp.fc1", "ff_context.net.0.proj"),
    ("context_block.mlp.fc2", "ff_context.net.2"),
];
/// Matrices of query, key and value, with the names of their thirds.
const FUSED: &[(&str, [&str; 3])] = &[
    ("x_block.attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("x_block.attn2.qkv", ["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
    ("context_block.attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
];

/// The original naming.
#[derive(Debug)]
pub(super) struct Original {
    /// Blocks whose text half ends with its keys and values: its modulation has a shift and a scale only.
    ending: BTreeSet<u64>,
}

impl Original {
    pub(super) fn new(names: &[&str]) -> Self {
        let parts = |name: &str| {
            let (number, rest) = name.strip_prefix("joint_blocks.")?.split_once('.')?;
            Some((number.parse::<u64>().ok()?, rest == "context_block.attn.proj.weight"))
        };
        let blocks: Vec<(u64, bool)> = names.iter().filter_map(|name| parts(name)).collect();
        let whole: BTreeSet<u64> =
            blocks.iter().filter(|(_, gives_text)| *gives_text).map(|(number, _)| *number).collect();
        let ending = blocks.into_iter().map(|(number, _)| number).filter(|number| !whole.contains(number));
        Self { ending: ending.collect() }
    }

    fn block(&self, number: u64, rest: &str) -> Option<Place> {
        let path = format!("transformer_blocks.{number}");
        let (module, leaf) = rest.rsplit_once('.')?;
        if let Some((_, thirds)) = FUSED.iter().find(|(from, _)| *from == module) {
            return Some(Place::Equal(thirds.map(|third| format!("{path}.{third}.{leaf}")).to_vec()));
        }
        let (_, to) = BLOCK.iter().find(|(from, _)| *from == module)?;
        let name = format!("{path}.{to}.{leaf}");
        let is_swapped = module == "context_block.adaLN_modulation.1" && self.ending.contains(&number);
        Some(if is_swapped { Place::Swapped(name) } else { Place::Same(name) })
    }
}

impl Naming for Original {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        if name == "pos_embed" {
            return Some(Place::same("pos_embed.pos_embed"));
        }
        if let Some(rest) = name.strip_prefix("joint_blocks.") {
            let (number, rest) = rest.split_once('.')?;
            return self.block(number.parse().ok()?, rest);
        }
        let (module, leaf) = name.rsplit_once('.')?;
        if module == "final_layer.adaLN_modulation.1" {
            return Some(Place::Swapped(format!("norm_out.linear.{leaf}")));
        }
        let (_, to) = OUTSIDE.iter().find(|(from, _)| *from == module)?;
        Some(Place::Same(format!("{to}.{leaf}")))
    }
}
