//! LoRAs: a pair of narrow matrices for every linear of the attentions, derived from the model it is for.

use super::{Place, Stored, Weight, Weights};
use crate::dev::values::Fill;

/// A component that a LoRA changes.
#[derive(Debug)]
pub(in crate::dev) struct Target<'w> {
    pub(in crate::dev) weights: &'w Weights,
    /// How kohya's files begin, e.g. `lora_te1`.
    pub(in crate::dev) kohya: &'static str,
    /// How diffusers' files begin, e.g. `text_encoder`.
    pub(in crate::dev) diffusers: &'static str,
    /// kohya uses the original module names (SDXL's UNet) instead of diffusers' ones.
    pub(in crate::dev) original_names: bool,
}

/// The LoRA in kohya's names (original layout) and in PEFT's (diffusers layout).
pub(in crate::dev) fn lora(key: &str, targets: &[Target<'_>], rank: u64, alpha: f32) -> Weights {
    let mut weights = Weights::new(key);
    for target in targets {
        for weight in target.weights.iter() {
            if let Some((place, shape)) = module(target, weight) {
                pair(&mut weights, &place, shape, rank, alpha);
            }
        }
    }
    weights
}

/// The module's place, if it is one that LoRAs change.
fn module<'w>(target: &Target<'_>, weight: &'w Weight) -> Option<(Place, &'w [u64])> {
    let name = weight.diffusers()?.strip_suffix(".weight")?;
    let is_inside = name.contains(".attentions.") || name.contains(".encoder.layers.");
    if !is_inside || weight.shape.len() < 2 {
        return None;
    }
    let kohya = if target.original_names { weight.original()?.strip_suffix(".weight")? } else { name };
    let kohya = format!("{}_{}", target.kohya, kohya.replace('.', "_"));
    Some((Place::root().at(format!("{}.{name}", target.diffusers), kohya), &weight.shape))
}

fn pair(weights: &mut Weights, place: &Place, shape: &[u64], rank: u64, alpha: f32) {
    let (outputs, inputs) = (shape.first().copied().unwrap_or(1), shape.get(1).copied().unwrap_or(1));
    let (down, up): (Vec<u64>, Vec<u64>) = match shape.len() {
        4 => (vec![rank, inputs, 1, 1], vec![outputs, rank, 1, 1]),
        _ => (vec![rank, inputs], vec![outputs, rank]),
    };
    weights.push(place.at("lora_A.weight", "lora_down.weight"), &down, Stored::Same, Fill::by_inputs(inputs));
    weights.push(place.at("lora_B.weight", "lora_up.weight"), &up, Stored::Same, Fill::SMALL);
    weights.push(place.both("alpha").only_original(), &[], Stored::Same, Fill::Exact(alpha));
}
