//! LoRA and its relatives: which keys make one, which flavour it is, which ranks it has.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Verdict, lora_base};
use crate::{inspection::TensorFacts, keys::Keys, vocab::ModelType};

/// What one tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The factor that takes the module's input: [rank, in, …].
    Down,
    /// The other factor.
    Up,
    /// Scale.
    Alpha,
    /// A tensor of this flavour that is neither.
    Of(&'static str),
}

/// Name endings; longer ones before those they end with.
const ENDINGS: &[(&str, Part)] = &[
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".lora_mid.weight", Part::Of("locon")),
    (".hada_w1_b", Part::Down),
    (".hada_w1_a", Part::Of("loha")),
    (".hada_w2_a", Part::Of("loha")),
    (".hada_w2_b", Part::Of("loha")),
    (".hada_t1", Part::Of("loha")),
    (".hada_t2", Part::Of("loha")),
    (".lokr_w1", Part::Of("lokr")),
    (".lokr_w2", Part::Of("lokr")),
    (".lokr_w1_a", Part::Of("lokr")),
    (".lokr_w1_b", Part::Of("lokr")),
    (".lokr_w2_a", Part::Of("lokr")),
    (".lokr_w2_b", Part::Of("lokr")),
    (".lokr_t2", Part::Of("lokr")),
    (".dora_scale", Part::Of("dora")),
    (".lora_magnitude_vector", Part::Of("dora")),
    (".lora_magnitude_vector.weight", Part::Of("dora")),
    (".oft_blocks", Part::Of("oft")),
    (".oft_diag", Part::Of("oft")),
    (".oft_R.weight", Part::Of("oft")),
    (".a1.weight", Part::Of("glora")),
    (".a2.weight", Part::Of("glora")),
    (".b1.weight", Part::Of("glora")),
    (".b2.weight", Part::Of("glora")),
    (".on_input", Part::Of("ia3")),
    (".ia3_l", Part::Of("ia3")),
    (".diff", Part::Of("full")),
    (".diff_b", Part::Of("full")),
    (".w_norm", Part::Of("norm")),
    (".b_norm", Part::Of("norm")),
    (".alpha", Part::Alpha),
];

/// PEFT may write the adapter's name between the factor's and the ending: `lora_A.default.weight`.
const NAMED: &[(&str, Part)] =
    &[(".lora_A", Part::Down), (".lora_B", Part::Up), (".lora_magnitude_vector", Part::Of("dora"))];

/// The module and the part a tensor name means.
fn split(name: &str) -> Option<(&str, Part)> {
    let plain = ENDINGS.iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)));
    plain.or_else(|| named(name))
}

fn named(name: &str) -> Option<(&str, Part)> {
    let (factor, adapter) = name.strip_suffix(".weight").unwrap_or(name).rsplit_once('.')?;
    let of = |(ending, part): &(&'static str, Part)| Some((factor.strip_suffix(ending)?, *part));
    NAMED.iter().find_map(of).filter(|_| !adapter.is_empty())
}

/// One adapted tensor with its module's name in the underscore spelling, which all layouts share.
#[derive(Debug)]
pub(super) struct Adapted<'a> {
    pub(super) module: String,
    pub(super) part: Part,
    pub(super) tensor: &'a TensorFacts,
}

/// A file most of whose tensors adapt another model's.
pub(super) fn lora(keys: &Keys<'_>) -> Option<Verdict> {
    let adapted: Vec<Adapted<'_>> = keys
        .iter()
        .filter_map(|(name, tensor)| {
            let (module, part) = split(name)?;
            Some(Adapted { module: module.replace('.', "_"), part, tensor })
        })
        .collect();
    let weights = adapted.iter().filter(|item| item.part != Part::Alpha).count();
    // leftovers of training inside a merged checkpoint do not make it an adapter
    if weights == 0 || adapted.len().saturating_mul(2) < keys.len() {
        return None;
    }
    let mut verdict = Verdict::of(ModelType::Lora);
    if let Some(first) = adapted.iter().find(|item| item.part != Part::Alpha) {
        verdict.saw("lora.key", &first.tensor.name, first.tensor.shape.clone());
    }
    describe(&mut verdict, &adapted);
    lora_base::decide(&mut verdict, &adapted);
    Some(verdict)
}

/// Flavours, modules and ranks, for whoever applies it.
fn describe(verdict: &mut Verdict, adapted: &[Adapted<'_>]) {
    let flavours: BTreeSet<&'static str> = adapted.iter().filter_map(flavour).collect();
    let mut modules: Vec<&str> = adapted.iter().map(|item| item.module.as_str()).collect();
    // the tensors are sorted by name, so this is all but sorted: cheaper than a set of a thousand long names
    modules.sort_unstable();
    modules.dedup();
    let ranks: BTreeSet<u64> = adapted.iter().filter(|item| item.part == Part::Down).filter_map(rank).collect();
    verdict.saw("lora.flavours", "endings", json!(flavours));
    verdict.fact("flavours", json!(flavours));
    verdict.fact("flavour", main_flavour(&flavours));
    verdict.fact("modules", modules.len());
    verdict.fact("rank_min", ranks.first().copied());
    verdict.fact("rank_max", ranks.last().copied());
}

/// The one name of a mix: what needs the most of whoever applies it.
fn main_flavour(flavours: &BTreeSet<&'static str>) -> &'static str {
    let order = ["dora", "glora", "oft", "ia3", "lokr", "loha", "locon", "full", "lora", "norm"];
    order.into_iter().find(|name| flavours.contains(name)).unwrap_or("lora")
}

fn flavour(item: &Adapted<'_>) -> Option<&'static str> {
    let kernel = item.tensor.shape.get(2).is_some_and(|size| *size > 1);
    match item.part {
        Part::Alpha | Part::Up => None,
        Part::Of(flavour) => Some(flavour),
        Part::Down if item.tensor.name.ends_with(".hada_w1_b") => Some("loha"),
        Part::Down if kernel => Some("locon"),
        Part::Down => Some("lora"),
    }
}

fn rank(item: &Adapted<'_>) -> Option<u64> {
    item.tensor.shape.first().copied()
}
