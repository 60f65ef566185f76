//! Which tensors of a LoRA file belong to which module, without converting any: a stack reads each module once, when the
//! tensor that it changes is made.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    file::{LoraError, LoraTensor, Module, Parts, incomplete, module},
    part::{Part, split},
    settings::AdapterSettings,
    spelling::components,
};

/// A module that the settings beside the factors may scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaledBeside {
    /// The components whose settings may be its own, of which the first with settings counts.
    pub places: Vec<&'static str>,
    /// Its factors show no rank: neither matrix of a LoKr is a product.
    pub needs_rank: bool,
}

/// Those modules, told from the names of a file's tensors: the ones with factors and no `alpha` of their own.
#[must_use]
pub fn scaled_beside<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, ScaledBeside> {
    let mut modules: BTreeMap<&str, BTreeSet<Part>> = BTreeMap::new();
    for (stem, part) in names.filter_map(split) {
        modules.entry(stem).or_default().insert(part);
    }
    modules.retain(|_, parts| has_rank(parts) && !parts.contains(&Part::Alpha));
    let scaled = |(stem, parts): (&'n str, BTreeSet<Part>)| {
        let places = components(stem).0.iter().copied().chain([""]).collect();
        (stem, ScaledBeside { places, needs_rank: needs_rank(&parts) })
    };
    modules.into_iter().map(scaled).collect()
}

/// Whether a change of these parts is divided by a rank: whole changes, and biases, are not.
fn has_rank(parts: &BTreeSet<Part>) -> bool {
    let of_lora = [Part::Down, Part::Up, Part::Mid];
    parts.iter().any(|part| of_lora.contains(part) || (Part::HadaW1A..=Part::LokrT2).contains(part))
}

fn needs_rank(parts: &BTreeSet<Part>) -> bool {
    let is_lokr = parts.iter().any(|part| (Part::LokrW1..=Part::LokrT2).contains(part));
    is_lokr && !parts.contains(&Part::LokrW1B) && !parts.contains(&Part::LokrW2B)
}

/// The modules of a LoRA file by stem, over the file's bytes.
#[derive(Debug, Clone)]
pub struct LoraIndex<'a> {
    modules: BTreeMap<&'a str, Parts<'a>>,
    others: Vec<&'a str>,
    settings: &'a BTreeMap<String, AdapterSettings>,
}

impl<'a> LoraIndex<'a> {
    /// Sorts a file's tensors. `settings` are those of its components by name, or one under the empty name for all.
    ///
    /// # Errors
    /// [`LoraError`] when there is no module, a part twice, or a flavour that is not computed.
    pub fn read(
        tensors: &[LoraTensor<'a>],
        settings: &'a BTreeMap<String, AdapterSettings>,
    ) -> Result<Self, LoraError> {
        let mut modules: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
        let mut others = Vec::new();
        for tensor in tensors {
            match split(tensor.name) {
                Some((module, Part::Refused(flavour))) => {
                    return Err(LoraError::Flavour { module: module.to_owned(), flavour });
                }
                Some((stem, part)) => {
                    if let Some(other) = modules.entry(stem).or_default().insert(part, *tensor) {
                        let reason = format!("`{}` and `{}` are the same part of it", other.name, tensor.name);
                        return Err(incomplete(stem, &reason));
                    }
                }
                None => others.push(tensor.name),
            }
        }
        if modules.is_empty() {
            return Err(LoraError::NoLora { tensors: tensors.len() });
        }
        Ok(Self { modules, others, settings })
    }

    /// The modules' names, in order.
    pub fn stems(&self) -> impl Iterator<Item = &'a str> {
        self.modules.keys().copied()
    }

    /// Tensors that belong to no module.
    pub fn others(&self) -> impl Iterator<Item = &'a str> {
        self.others.iter().copied()
    }

    /// Reads a module: its factors in 32-bit floats, checked against each other.
    ///
    /// # Errors
    /// [`LoraError`]: the first thing that is wrong with it, also that it is not there.
    pub fn module(&self, stem: &str) -> Result<Module, LoraError> {
        let parts = self.modules.get(stem).ok_or_else(|| incomplete(stem, "the file has no such module"))?;
        module(stem, parts, self.settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_factors_and_no_alpha_is_scaled_by_settings() {
        let names = [
            "unet.a.lora_A.weight",
            "unet.a.lora_B.weight",
            "unet.b.lora_A.weight",
            "unet.b.lora_B.weight",
            "unet.b.alpha",
            "lora_te2_c.hada_w1_a",
            "lora_te2_d.lokr_w1",
            "lora_te2_d.lokr_w2",
            "lora_te2_e.lokr_w1",
            "lora_te2_e.lokr_w2_a",
            "lora_te2_e.lokr_w2_b",
            "f.diff",
            "g.diff_b",
            "bundle_emb.x",
        ];
        let scaled = scaled_beside(names.into_iter());
        let second: &[&str] = &["text_encoder_2", ""];
        let expected: [(&str, &[&str], bool); 4] = [
            ("lora_te2_c", second, false),
            ("lora_te2_d", second, true),
            ("lora_te2_e", second, false),
            ("unet.a", &["unet", ""], false),
        ];
        let found: Vec<(&str, &[&str], bool)> =
            scaled.iter().map(|(stem, of)| (*stem, of.places.as_slice(), of.needs_rank)).collect();
        assert_eq!(found, expected);
    }
}
