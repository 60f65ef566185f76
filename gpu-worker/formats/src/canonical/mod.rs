//! Canonical tensors: every component under the names, shapes and order of diffusers and transformers,
//! whatever naming its file uses. No bytes are read: a canonical tensor says where its bytes are.
//!
//! Block structure is derived from the names that are there, never from a family's fixed sizes, so that
//! reduced and widened models map as well.

mod autoencoder;
mod control;
mod encoder;
mod flux;
mod mmdit;
mod place;
mod projection;
pub(crate) mod scales;
mod taesd;
mod unet;
mod view;

use std::collections::{BTreeMap, BTreeSet};

pub use view::{CanonicalTensor, Order, Piece};

use crate::{
    inspection::TensorFacts,
    vocab::{Base, ComponentKind},
};
use place::Place;

/// Version of the canonical form: of the tables of names, the shapes, the order, and what is left out. Raised whenever a component may
/// get other tensors than before, and so another digest: digests of two versions say nothing about each other.
pub const FORM_VERSION: u32 = 1;

/// A component under canonical names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canonical {
    /// Its tensors, sorted by name; each name occurs once.
    pub tensors: Vec<CanonicalTensor>,
    /// Names in the file that have no canonical tensor, in the order of the input: unknown names, names that
    /// lead to a tensor another name already gave, and tensors whose shape does not allow the mapping.
    pub unmapped: Vec<String>,
    /// Names in the file that are known and no weights of the component: position numbers, temperatures,
    /// scales of a bundle, averages, and the parts of an encoder that its family does not use.
    pub ignored: Vec<String>,
}

impl Canonical {
    /// The tensor of this canonical name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&CanonicalTensor> {
        let at = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }
}

/// How the names of one component are read.
trait Naming {
    /// What becomes of the tensor called `name` (without the component's prefix); none if it is not known.
    fn place(&self, name: &str, tensor: &TensorFacts) -> Option<Place>;
}

/// Names that are canonical already.
struct Identity;

impl Naming for Identity {
    fn place(&self, name: &str, _: &TensorFacts) -> Option<Place> {
        Some(Place::same(name))
    }
}

/// Brings the tensors of one component (as the split of a model gives them, prefixes included) to canonical
/// names, shapes and order. LoRAs and the other adapters keep their own names.
#[must_use]
pub fn canonicalise(kind: ComponentKind, base: Base, tensors: &[TensorFacts]) -> Canonical {
    let prefix = prefix(kind, tensors);
    let names: Vec<&str> = tensors.iter().map(|tensor| strip(&tensor.name, prefix)).collect();
    let naming = naming(kind, base, &names, tensors);
    let weights: BTreeMap<&str, &TensorFacts> = names.iter().copied().zip(tensors).collect();
    let mut canonical = Canonical::default();
    let mut taken = BTreeSet::new();
    for (index, (tensor, name)) in tensors.iter().zip(&names).enumerate() {
        let scale = scales::place(name, tensor, &weights, naming.as_ref());
        let place = scale.or_else(|| naming.place(name, tensor));
        match place.map(|place| projection::formed(kind, base, place)) {
            Some(Place::Ignored) => canonical.ignored.push(tensor.name.clone()),
            Some(place) => match place.apply(index, tensor).filter(|parts| is_free(parts, &taken)) {
                Some(parts) => {
                    taken.extend(parts.iter().map(|part| part.name.clone()));
                    canonical.tensors.extend(parts);
                }
                None => canonical.unmapped.push(tensor.name.clone()),
            },
            None => canonical.unmapped.push(tensor.name.clone()),
        }
    }
    canonical.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    canonical
}

/// The names that [`canonicalise`] would ignore; adapters have none.
pub(crate) fn ignored(kind: ComponentKind, base: Base, tensors: &[TensorFacts]) -> Vec<String> {
    use ComponentKind as K;
    match kind {
        K::Unet | K::Transformer | K::Vae | K::TextEncoder | K::TextEncoder2 | K::TextEncoder3 => {
            canonicalise(kind, base, tensors).ignored
        }
        _ => Vec::new(),
    }
}

fn is_free(parts: &[CanonicalTensor], taken: &BTreeSet<String>) -> bool {
    parts.iter().all(|part| !taken.contains(&part.name))
}

/// The naming that the names show.
fn naming(kind: ComponentKind, base: Base, names: &[&str], tensors: &[TensorFacts]) -> Box<dyn Naming> {
    let any = |prefixes: &[&str]| names.iter().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    match kind {
        ComponentKind::Unet if any(&["input_blocks."]) => Box::new(unet::Ldm::new(base, names)),
        ComponentKind::ControlNet if any(&["input_blocks."]) && !names.contains(&"lora_controlnet") => {
            Box::new(control::Original::new(base, names))
        }
        ComponentKind::Transformer if any(&["joint_blocks."]) => Box::new(mmdit::Original::new(names)),
        ComponentKind::Transformer if any(&["double_blocks.", "single_blocks."]) => {
            Box::new(flux::Original::new(names, tensors))
        }
        ComponentKind::Vae if any(&["encoder.down.", "decoder.up.", "encoder.mid.", "decoder.mid."]) => {
            Box::new(autoencoder::Ldm::new(names))
        }
        ComponentKind::Vae => taesd::naming(names).unwrap_or_else(|| Box::new(autoencoder::Diffusers)),
        ComponentKind::TextEncoder | ComponentKind::TextEncoder2 | ComponentKind::TextEncoder3 => {
            Box::new(encoder::Clip::new(base, names, tensors))
        }
        _ => Box::new(Identity),
    }
}

/// The longest known prefix of the component that any of its names has.
fn prefix(kind: ComponentKind, tensors: &[TensorFacts]) -> &'static str {
    let known: &[&'static str] = match kind {
        ComponentKind::Unet | ComponentKind::Transformer => &["model.diffusion_model."],
        ComponentKind::ControlNet => &["control_model."],
        ComponentKind::Vae => &["first_stage_model.", "vae."],
        ComponentKind::TextEncoder | ComponentKind::TextEncoder2 | ComponentKind::TextEncoder3 => encoder::PREFIXES,
        _ => &[],
    };
    let has = |prefix: &&&'static str| tensors.iter().any(|tensor| tensor.name.starts_with(**prefix));
    known.iter().find(has).copied().unwrap_or_default()
}

fn strip<'n>(name: &'n str, prefix: &str) -> &'n str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests;
