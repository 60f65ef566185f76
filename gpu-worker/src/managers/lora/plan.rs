//! The plan of a stack: for each part of the model the tensors that change, in one order, and the key of the result.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use engine::lora::{Entry, Stack};
use shared::wire::LoraWithoutEffect;

use super::Matched;
use crate::runner::{TensorChange, Term};

/// What the bytes of a variant follow from beside base and stack: the order of sums and their precision. A release that
/// computes otherwise has another number.
const RULE: &str = "modelyard lora merge 2";

/// Why a LoRA changes nothing: its own scale.
pub const SCALED_TO_ZERO: &str = "the scale of its modules is 0 (alpha 0)";
/// Nothing of it is in the model.
pub const NO_MODULE: &str = "it has no module that this model has";
/// The weights that it is used with.
pub const WEIGHTLESS: &str = "its weights are 0 for everything that it would change";

/// A LoRA with its weights, compared with the model.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The model's name.
    pub name: String,
    /// Weights, under the identity of what is applied.
    pub entry: Entry,
    /// What it touches.
    pub matched: Arc<Matched>,
}

/// A LoRA that changes nothing as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Its place in the stack as it was given.
    pub place: usize,
    /// The model's name.
    pub lora: String,
    /// Why.
    pub why: &'static str,
}

/// What of one part changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PartPlan {
    /// The changed tensors by name; terms name LoRAs by their place in the stack as it was given.
    pub changes: Vec<TensorChange>,
    /// What each changed tensor follows from, beside the base: equal for equal bytes.
    pub marks: BTreeMap<String, [u8; 32]>,
    /// Bytes of each changed tensor.
    pub sizes: BTreeMap<String, u64>,
}

/// What of a model changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StackPlan {
    /// By part; those that do not change are not there.
    pub parts: BTreeMap<String, PartPlan>,
    /// LoRAs without effect.
    pub idle: Vec<Idle>,
}

impl Idle {
    /// As results show it.
    pub fn view(&self) -> LoraWithoutEffect {
        LoraWithoutEffect { lora: self.lora.clone(), why: self.why.to_owned() }
    }
}

impl PartPlan {
    /// Bytes of all changed tensors.
    pub fn bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    /// Names the variant of a base with this digest: equal names, equal bytes.
    pub fn key(&self, base_digest: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(RULE.as_bytes()).update(&[0]).update(base_digest.as_bytes()).update(&[0]);
        for (tensor, mark) in &self.marks {
            hasher.update(tensor.as_bytes()).update(&[0]).update(mark);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The LoRAs that take part, by place in the stack.
    pub fn loras(&self) -> BTreeSet<usize> {
        self.changes.iter().flat_map(|change| change.terms.iter().map(|term| term.lora)).collect()
    }

    /// The places of the LoRAs that take part, and the changes with terms that name LoRAs by their place among these.
    pub fn compact(&self) -> (Vec<usize>, Vec<TensorChange>) {
        let places: Vec<usize> = self.loras().into_iter().collect();
        let mut changes = self.changes.clone();
        for term in changes.iter_mut().flat_map(|change| &mut change.terms) {
            term.lora = places.binary_search(&term.lora).unwrap_or(term.lora);
        }
        (places, changes)
    }

    /// Bytes of the tensors that are the same in a variant with these marks.
    pub fn shared_bytes(&self, marks: &BTreeMap<String, [u8; 32]>) -> u64 {
        let same = self.marks.iter().filter(|(tensor, mark)| marks.get(*tensor) == Some(mark));
        same.filter_map(|(tensor, _)| self.sizes.get(tensor)).sum()
    }
}

/// Plans a stack. The order in which it is given changes no byte of the result.
pub fn plan(stack: &[Applied]) -> StackPlan {
    let mut parts: BTreeMap<String, BTreeMap<String, (u64, Vec<Term>)>> = BTreeMap::new();
    let mut active = BTreeSet::new();
    for place in order(stack) {
        let Some(applied) = stack.get(place) else { continue };
        for touch in &applied.matched.touches {
            let strength = applied.entry.strength(&touch.component, &touch.path);
            if strength == 0.0 {
                continue;
            }
            active.insert(place);
            let part = parts.entry(touch.component.clone()).or_default();
            for (tensor, bytes) in &touch.tensors {
                let (_, terms) = part.entry(tensor.clone()).or_insert_with(|| (*bytes, Vec::new()));
                terms.push(Term { lora: place, stem: touch.stem.clone(), strength });
            }
        }
    }
    let parts = parts.into_iter().map(|(kind, tensors)| (kind, part(stack, tensors))).collect();
    let idle = stack.iter().enumerate().filter(|(place, _)| !active.contains(place));
    StackPlan { parts, idle: idle.map(|(place, applied)| idle_because(place, applied)).collect() }
}

fn part(stack: &[Applied], tensors: BTreeMap<String, (u64, Vec<Term>)>) -> PartPlan {
    let mut plan = PartPlan::default();
    for (tensor, (bytes, terms)) in tensors {
        plan.marks.insert(tensor.clone(), mark(stack, &terms));
        plan.sizes.insert(tensor.clone(), bytes);
        plan.changes.push(TensorChange { tensor, terms });
    }
    plan
}

fn mark(stack: &[Applied], terms: &[Term]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for term in terms {
        let identity = stack.get(term.lora).map_or("", |applied| applied.entry.digest.as_str());
        for text in [identity, term.stem.as_str()] {
            hasher.update(text.as_bytes()).update(&[0]);
        }
        hasher.update(&term.strength.to_bits().to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Places in the stack in the order of sums: that of the canonical stack, entries that are alike as they come.
fn order(stack: &[Applied]) -> Vec<usize> {
    let canonical = Stack(stack.iter().map(|applied| applied.entry.clone()).collect()).canonical();
    let alone = |applied: &Applied| Stack(vec![applied.entry.clone()]).canonical().0.pop();
    let mut left: Vec<(usize, Entry)> =
        stack.iter().enumerate().filter_map(|(place, applied)| Some((place, alone(applied)?))).collect();
    let mut places = Vec::new();
    for entry in &canonical.0 {
        if let Some(at) = left.iter().position(|(_, other)| other == entry) {
            places.push(left.remove(at).0);
        }
    }
    places
}

fn idle_because(place: usize, applied: &Applied) -> Idle {
    let why = match applied.matched.as_ref() {
        matched if matched.touches.is_empty() && matched.scaled_to_zero > 0 => SCALED_TO_ZERO,
        matched if matched.touches.is_empty() => NO_MODULE,
        _ => WEIGHTLESS,
    };
    Idle { place, lora: applied.name.clone(), why }
}

#[cfg(test)]
mod tests {
    use engine::lora::BlockWeights;
    use proptest::prelude::*;

    use super::{super::Touch, *};

    fn touch(stem: &str, component: &str, path: &str) -> Touch {
        let (stem, component, path) = (stem.to_owned(), component.to_owned(), path.to_owned());
        let tensors = vec![(format!("{path}.weight"), 100)];
        Touch { stem, component, path, tensors }
    }

    fn applied(identity: &str, weight: f64, touches: Vec<Touch>) -> Applied {
        let entry =
            Entry { digest: identity.to_owned(), weight, text_encoder_weight: None, blocks: BlockWeights::default() };
        let matched = Arc::new(Matched { touches, ..Matched::default() });
        Applied { name: identity.to_uppercase(), entry, matched }
    }

    fn both(identity: &str, weight: f64) -> Applied {
        applied(identity, weight, vec![touch("u", "unet", "mid_block.a"), touch("t", "text_encoder", "layers.0")])
    }

    #[test]
    fn parts_are_planned_apart_and_a_weight_changes_only_what_it_touches() {
        let far = applied("b", 0.5, vec![touch("v", "unet", "up_blocks.0")]);
        let one = plan(&[both("a", 1.0), far.clone()]);
        assert_eq!(one.parts.keys().collect::<Vec<_>>(), ["text_encoder", "unet"]);
        assert_eq!((one.parts["unet"].bytes(), one.parts["text_encoder"].bytes()), (200, 100));
        let mut other = both("a", 1.0);
        other.entry.text_encoder_weight = Some(0.25);
        let two = plan(&[other, far]);
        assert_eq!(one.parts["unet"].key("d"), two.parts["unet"].key("d"), "the weight of encoders is not the UNet's");
        assert_ne!(one.parts["text_encoder"].key("d"), two.parts["text_encoder"].key("d"));
        assert_ne!(one.parts["unet"].key("d"), one.parts["unet"].key("e"), "another base");
        let (places, changes) = plan(&[both("z", 0.0), both("a", 1.0)]).parts["unet"].compact();
        assert_eq!((places, changes[0].terms[0].lora), (vec![1], 0), "only the second of the stack takes part");
        assert_eq!(one.parts["unet"].shared_bytes(&plan(&[both("a", 1.0)]).parts["unet"].marks), 100);
    }

    #[test]
    fn what_changes_nothing_is_named_and_makes_no_variant() {
        let mut zero = both("c", 1.0);
        zero.matched = Arc::new(Matched { scaled_to_zero: 2, ..Matched::default() });
        let found = plan(&[both("a", 0.0), applied("b", 1.0, Vec::new()), zero]);
        assert!(found.parts.is_empty());
        assert_eq!(found.idle.iter().map(|idle| idle.place).collect::<Vec<_>>(), [0, 1, 2]);
        let why: Vec<&str> = found.idle.iter().map(|idle| idle.why).collect();
        assert!(
            why[0].contains("weights are 0") && why[1].contains("no module") && why[2].contains("alpha 0"),
            "{why:?}"
        );
    }

    fn stacks() -> impl Strategy<Value = Vec<Applied>> {
        let weight = prop_oneof![Just(0.0), Just(-0.5), -2.0..2.0_f64];
        let block = proptest::option::of((Just("mid_block".to_owned()), prop_oneof![Just(0.0), -1.0..1.0_f64]));
        // what a LoRA touches follows from which it is
        let paths = |identity: &str| match identity {
            "a" => vec!["down_blocks.0", "mid_block.a"],
            "b" => vec!["mid_block.a", "up_blocks.1"],
            _ => vec!["up_blocks.1"],
        };
        let one = ("[a-c]", weight, block).prop_map(move |(identity, weight, block)| {
            let touches = paths(&identity).into_iter().map(|path| touch(&format!("s_{path}"), "unet", path)).collect();
            let mut applied = applied(&identity, weight, touches);
            applied.entry.blocks = BlockWeights(block.into_iter().collect());
            applied
        });
        proptest::collection::vec(one, 0..6)
    }

    proptest! {
        /// Terms are the same whatever the order of the stack; every tensor of a plan has terms that are not zero.
        #[test]
        fn the_order_of_a_stack_says_nothing(stack in stacks(), seed in any::<u64>()) {
            let mut shuffled = stack.clone();
            let count = shuffled.len();
            for at in 0..count {
                shuffled.swap(at, (seed as usize).rotate_left(at as u32) % count);
            }
            let (one, two) = (plan(&stack), plan(&shuffled));
            let keys = |plan: &StackPlan| {
                plan.parts.iter().map(|(kind, part)| (kind.clone(), part.key("base"))).collect::<Vec<_>>()
            };
            prop_assert_eq!(keys(&one), keys(&two));
            for part in one.parts.values() {
                prop_assert!(part.changes.iter().all(|change| change.terms.iter().all(|term| term.strength != 0.0)));
                prop_assert!(part.changes.iter().all(|change| !change.terms.is_empty()));
                prop_assert_eq!(part.shared_bytes(&part.marks), part.bytes());
            }
            prop_assert_eq!(one.idle.len() + one.parts.values().flat_map(PartPlan::loras).collect::<BTreeSet<_>>().len(), count);
        }
    }
}
