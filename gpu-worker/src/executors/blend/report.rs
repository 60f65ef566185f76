//! What came of a blend: its modules and how far they are off, and what of each LoRA is in it and what is not.

use std::collections::BTreeMap;

use engine::lora::blend::{Blended, BlendedSource};
use shared::wire::{BlendLorasResult, BlendedLora, BlendedModule, LoraWithoutEffect};

use super::Part;
use crate::managers::lora;

/// Modules that the result names as the worst.
const WORST: usize = 10;

/// All of it but for the file.
pub(super) fn report(parts: &[Part], blended: &Blended) -> BlendLorasResult {
    let mut ranks = BTreeMap::new();
    blended.modules.iter().for_each(|module| *ranks.entry(module.rank).or_default() += 1);
    let mut worst: Vec<BlendedModule> = blended
        .modules
        .iter()
        .map(|module| BlendedModule { stem: module.stem.clone(), rank: module.rank, error: module.error })
        .collect();
    worst.sort_by(|a, b| b.error.total_cmp(&a.error));
    worst.truncate(WORST);
    let each = || parts.iter().zip(&blended.sources);
    let misfit = |(part, source): (&Part, &BlendedSource)| {
        lora::misfit(&part.name, &lora::Unused::of(&source.unmatched, &source.others))
    };
    BlendLorasResult {
        host: String::new(),
        root: String::new(),
        path: String::new(),
        bytes: 0,
        payload_sha256: None,
        modules: blended.modules.len(),
        ranks,
        error: blended.error,
        worst,
        loras: each().map(|(part, source)| told(part, source)).collect(),
        loras_without_effect: each().filter_map(|(part, source)| idle(&part.name, source)).collect(),
        lora_misfits: each().filter_map(misfit).collect(),
        seconds: 0.0,
    }
}

fn told(part: &Part, source: &BlendedSource) -> BlendedLora {
    let BlendedSource { blended, weightless, scaleless, unmatched, .. } = source;
    BlendedLora {
        lora: part.name.clone(),
        blended: *blended,
        without_effect: weightless + scaleless,
        unmatched: unmatched.len(),
    }
}

/// A LoRA of which nothing is in the result.
fn idle(name: &str, source: &BlendedSource) -> Option<LoraWithoutEffect> {
    let why = match source {
        BlendedSource { blended: 1.., .. } => return None,
        BlendedSource { scaleless: 1.., .. } => lora::SCALED_TO_ZERO,
        BlendedSource { weightless: 1.., .. } => lora::WEIGHTLESS,
        _ => lora::NO_MODULE,
    };
    Some(LoraWithoutEffect { lora: name.to_owned(), why: why.to_owned() })
}
