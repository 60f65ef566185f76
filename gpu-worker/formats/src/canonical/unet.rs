//! UNets in the original (LDM) naming: numbered blocks that become levels of resnets, attentions and samplers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Naming, place::Place};
use crate::{inspection::TensorFacts, vocab::Base};

/// The rows of numbered modules.
const ROWS: [&str; 3] = ["input_blocks", "middle_block", "output_blocks"];
/// Modules outside the blocks.
const OUTSIDE: &[(&str, &str)] = &[
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];
/// Parts of a resnet.
const RESNET: &[(&str, &str)] = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// What a numbered module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Resnet,
    Attention,
    Down,
    Up,
    ConvIn,
}

/// The modules by their place in the file, with their canonical path.
#[derive(Debug)]
pub(super) struct Ldm {
    modules: BTreeMap<String, (Role, String)>,
    embedding: &'static str,
}

impl Ldm {
    /// Derives the levels from the names.
    pub(super) fn new(base: Base, names: &[&str]) -> Self {
        let found = found(names);
        let mut modules = BTreeMap::new();
        down(&found, &mut modules);
        middle(&found, &mut modules);
        up(&found, &mut modules);
        // unCLIP's image embedding has the same name in the file as the sizes of SDXL
        let embedding = if matches!(base, Base::Sd15 | Base::Sd21) { "class_embedding" } else { "add_embedding" };
        Self { modules, embedding }
    }

    fn outside(&self, name: &str) -> Option<Place> {
        if name == "label_emb.weight" {
            return Some(Place::same("class_embedding.weight"));
        }
        let (module, leaf) = name.rsplit_once('.')?;
        let path = match module {
            "label_emb.0.0" => format!("{}.linear_1", self.embedding),
            "label_emb.0.2" => format!("{}.linear_2", self.embedding),
            module => renamed(OUTSIDE, module)?.to_owned(),
        };
        Some(Place::Same(format!("{path}.{leaf}")))
    }
}

impl Naming for Ldm {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        if name.starts_with("model_ema.") {
            return Some(Place::Ignored);
        }
        let Some((module, rest)) = module(name) else { return self.outside(name) };
        let (role, path) = self.modules.get(module)?;
        let rest = match role {
            Role::Resnet => {
                let (part, leaf) = rest.rsplit_once('.')?;
                format!("{}.{leaf}", renamed(RESNET, part)?)
            }
            Role::Attention => rest.to_owned(),
            Role::Down => rest.strip_prefix("op.")?.to_owned(),
            Role::Up => rest.strip_prefix("conv.")?.to_owned(),
            Role::ConvIn => rest.to_owned(),
        };
        Some(Place::Same(format!("{path}.{rest}")))
    }
}

fn renamed(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

/// `input_blocks.4.1.proj_in.weight` is `proj_in.weight` of the module `input_blocks.4.1`; the middle block has
/// one number only.
fn module(name: &str) -> Option<(&str, &str)> {
    let row = ROWS.into_iter().find(|row| name.strip_prefix(row).is_some_and(|rest| rest.starts_with('.')))?;
    let numbers = if row == "middle_block" { 1 } else { 2 };
    let (end, _) = name.match_indices('.').nth(numbers)?;
    Some((name.get(..end)?, name.get(end.checked_add(1)?..)?))
}

/// Row, block and position of every module, with what it is. The middle block counts as block 0.
type Found = BTreeMap<(&'static str, u64, u64), Role>;

fn found(names: &[&str]) -> Found {
    let mut found = Found::new();
    let seen: BTreeSet<&str> = names.iter().copied().collect();
    for name in seen {
        let Some((module, rest)) = module(name) else { continue };
        let Some(key) = numbers(module) else { continue };
        let role = role(key, rest);
        if let Some(role) = role {
            found.insert(key, role);
        }
    }
    found
}

fn numbers(module: &str) -> Option<(&'static str, u64, u64)> {
    let mut parts = module.split('.');
    let row = parts.next()?;
    let row = ROWS.into_iter().find(|known| *known == row)?;
    let first = parts.next()?.parse().ok()?;
    match parts.next() {
        None => Some((row, 0, first)),
        Some(second) => Some((row, first, second.parse().ok()?)),
    }
}

fn role((row, block, _): (&'static str, u64, u64), rest: &str) -> Option<Role> {
    let begins = |parts: &[&str]| parts.iter().any(|part| rest.starts_with(part));
    if begins(&["in_layers.", "out_layers.", "emb_layers."]) {
        return Some(Role::Resnet);
    }
    if begins(&["transformer_blocks.", "proj_in.", "proj_out.", "norm."]) {
        return Some(Role::Attention);
    }
    match row {
        "input_blocks" if block == 0 => Some(Role::ConvIn),
        "input_blocks" if begins(&["op."]) => Some(Role::Down),
        "output_blocks" if begins(&["conv."]) => Some(Role::Up),
        _ => None,
    }
}

fn blocks<'f>(found: &'f Found, row: &'static str) -> impl Iterator<Item = (u64, Vec<(u64, Role)>)> + 'f {
    let mut blocks: BTreeMap<u64, Vec<(u64, Role)>> = BTreeMap::new();
    for ((_, block, position), role) in found.iter().filter(|((have, _, _), _)| *have == row) {
        blocks.entry(*block).or_default().push((*position, *role));
    }
    blocks.into_iter()
}

/// A downsampler stands alone in its block and ends its level.
fn down(found: &Found, modules: &mut BTreeMap<String, (Role, String)>) {
    let (mut level, mut layer) = (0_u64, 0_u64);
    for (block, parts) in blocks(found, "input_blocks") {
        let is_down = parts.iter().any(|(_, role)| *role == Role::Down);
        for (position, role) in parts {
            let path = match role {
                Role::ConvIn => "conv_in".to_owned(),
                Role::Resnet => format!("down_blocks.{level}.resnets.{layer}"),
                Role::Attention => format!("down_blocks.{level}.attentions.{layer}"),
                Role::Down | Role::Up => format!("down_blocks.{level}.downsamplers.0.conv"),
            };
            modules.insert(format!("input_blocks.{block}.{position}"), (role, path));
        }
        match (is_down, block) {
            (true, _) => (level, layer) = (level.saturating_add(1), 0),
            (false, 0) => {}
            (false, _) => layer = layer.saturating_add(1),
        }
    }
}

/// Resnets and attentions are counted on their own: distilled models have one resnet and nothing else.
fn middle(found: &Found, modules: &mut BTreeMap<String, (Role, String)>) {
    let (mut resnets, mut attentions) = (0_u64, 0_u64);
    for (position, role) in blocks(found, "middle_block").flat_map(|(_, parts)| parts) {
        let (count, kind) = match role {
            Role::Resnet => (&mut resnets, "resnets"),
            Role::Attention => (&mut attentions, "attentions"),
            Role::Down | Role::Up | Role::ConvIn => continue,
        };
        modules.insert(format!("middle_block.{position}"), (role, format!("mid_block.{kind}.{count}")));
        *count = count.saturating_add(1);
    }
}

/// An upsampler follows the resnet and the attention, if any, of the last block of its level.
fn up(found: &Found, modules: &mut BTreeMap<String, (Role, String)>) {
    let (mut level, mut layer) = (0_u64, 0_u64);
    for (block, parts) in blocks(found, "output_blocks") {
        let is_up = parts.iter().any(|(_, role)| *role == Role::Up);
        for (position, role) in parts {
            let path = match role {
                Role::Attention => format!("up_blocks.{level}.attentions.{layer}"),
                Role::Up | Role::Down => format!("up_blocks.{level}.upsamplers.0.conv"),
                Role::Resnet | Role::ConvIn => format!("up_blocks.{level}.resnets.{layer}"),
            };
            modules.insert(format!("output_blocks.{block}.{position}"), (role, path));
        }
        (level, layer) = if is_up { (level.saturating_add(1), 0) } else { (level, layer.saturating_add(1)) };
    }
}
