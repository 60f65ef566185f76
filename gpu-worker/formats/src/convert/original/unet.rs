//! A UNet under LDM's names: levels become numbered blocks.

use std::collections::BTreeMap;

use super::{Original, count, has};
use crate::canonical::Canonical;

const PREFIX: &str = "model.diffusion_model.";
/// Modules outside the blocks: diffusers' name, LDM's.
const OUTSIDE: &[(&str, &str)] = &[
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("class_embedding.linear_1", "label_emb.0.0"),
    ("class_embedding.linear_2", "label_emb.0.2"),
    ("class_embedding", "label_emb"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];
/// Parts of a resnet: diffusers' name, LDM's.
const RESNET: &[(&str, &str)] = &[
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

/// What a numbered module is made of.
#[derive(Debug, Clone, Copy)]
enum Role {
    Resnet,
    Attention,
    /// One convolution, under this name.
    Sampler(&'static str),
}

/// Diffusers' paths with what they are and LDM's.
type Modules = BTreeMap<String, (Role, String)>;

/// All tensors; the name for which there is none otherwise.
pub(super) fn originals(canonical: &Canonical) -> Result<Vec<Original>, String> {
    let modules = modules(canonical);
    let of = |(index, tensor): (usize, &crate::canonical::CanonicalTensor)| {
        let name = renamed(&modules, &tensor.name).ok_or_else(|| tensor.name.clone())?;
        Ok(Original::renamed(format!("{PREFIX}{name}"), index, &tensor.shape))
    };
    canonical.tensors.iter().enumerate().map(of).collect()
}

fn renamed(modules: &Modules, name: &str) -> Option<String> {
    let inside = name.match_indices('.').find_map(|(dot, _)| {
        let (role, path) = modules.get(name.get(..dot)?)?;
        Some((*role, path, name.get(dot.saturating_add(1)..)?))
    });
    let Some((role, path, rest)) = inside else { return outside(name) };
    let rest = match role {
        Role::Attention => rest.to_owned(),
        Role::Sampler(part) => format!("{part}.{rest}"),
        Role::Resnet => {
            let (part, leaf) = rest.rsplit_once('.')?;
            format!("{}.{leaf}", found(RESNET, part)?)
        }
    };
    Some(format!("{path}.{rest}"))
}

fn outside(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    Some(format!("{}.{leaf}", found(OUTSIDE, module)?))
}

fn found(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

fn modules(canonical: &Canonical) -> Modules {
    let mut modules = Modules::new();
    modules.insert("conv_in".to_owned(), (Role::Attention, "input_blocks.0.0".to_owned()));
    down(canonical, &mut modules);
    middle(canonical, &mut modules);
    up(canonical, &mut modules);
    modules
}

/// A block for each layer, and one for the downsampler that ends a level.
fn down(canonical: &Canonical, modules: &mut Modules) {
    let mut block = 1_u64;
    for level in 0..count(canonical, "down_blocks.") {
        let path = format!("down_blocks.{level}");
        for layer in 0..count(canonical, &format!("{path}.resnets.")) {
            put(modules, format!("{path}.resnets.{layer}"), Role::Resnet, format!("input_blocks.{block}.0"));
            put(modules, format!("{path}.attentions.{layer}"), Role::Attention, format!("input_blocks.{block}.1"));
            block = block.saturating_add(1);
        }
        let sampler = format!("{path}.downsamplers.0.conv");
        if has(canonical, &sampler) {
            put(modules, sampler, Role::Sampler("op"), format!("input_blocks.{block}.0"));
            block = block.saturating_add(1);
        }
    }
}

/// Resnet, attention, resnet, and so on.
fn middle(canonical: &Canonical, modules: &mut Modules) {
    let resnets = count(canonical, "mid_block.resnets.");
    let attentions = count(canonical, "mid_block.attentions.");
    let mut place = 0_u64;
    for number in 0..resnets.max(attentions) {
        for (part, role, there) in [("resnets", Role::Resnet, resnets), ("attentions", Role::Attention, attentions)] {
            if number < there {
                put(modules, format!("mid_block.{part}.{number}"), role, format!("middle_block.{place}"));
                place = place.saturating_add(1);
            }
        }
    }
}

/// A block for each layer; the upsampler follows in the last one of its level.
fn up(canonical: &Canonical, modules: &mut Modules) {
    let mut block = 0_u64;
    for level in 0..count(canonical, "up_blocks.") {
        let path = format!("up_blocks.{level}");
        let layers = count(canonical, &format!("{path}.resnets."));
        for layer in 0..layers {
            let attention = format!("{path}.attentions.{layer}");
            let after = if has(canonical, &format!("{attention}.")) { 2 } else { 1 };
            put(modules, format!("{path}.resnets.{layer}"), Role::Resnet, format!("output_blocks.{block}.0"));
            put(modules, attention, Role::Attention, format!("output_blocks.{block}.1"));
            if layer.saturating_add(1) == layers {
                let sampler = format!("{path}.upsamplers.0.conv");
                put(modules, sampler, Role::Sampler("conv"), format!("output_blocks.{block}.{after}"));
            }
            block = block.saturating_add(1);
        }
    }
}

fn put(modules: &mut Modules, path: String, role: Role, original: String) {
    modules.insert(path, (role, original));
}
