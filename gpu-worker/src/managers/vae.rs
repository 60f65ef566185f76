//! Which VAE decodes for a model that brings none: the one that a request names, else one of this host for the same family.

use serde_json::Value;
use shared::{db::models::ModelRow, ids::ModelId};

/// A VAE on the disks of this host.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The model.
    pub model: ModelId,
    /// Its name.
    pub name: String,
    /// Its family, as the operator says it or its files show it.
    pub base: Option<String>,
    /// Channels of its latents, where its tensors or config tell.
    pub latent_channels: Option<u64>,
    /// Scale of its latents, where its config tells.
    pub scaling_factor: Option<f64>,
    /// A tiny autoencoder: quick and less exact.
    pub is_tiny: bool,
    /// Something of it is on the device already.
    pub is_resident: bool,
}

impl Candidate {
    /// What the catalogue knows of a model that is a VAE.
    pub fn of(model: &ModelRow, is_resident: bool) -> Self {
        let facts = model.metadata.get("facts");
        let said = model.overrides.get("base").and_then(Value::as_str).unwrap_or(&model.base);
        Self {
            model: model.id,
            name: model.name.clone(),
            base: (said != "unknown").then(|| said.to_owned()),
            latent_channels: facts.and_then(|facts| facts.get("latent_channels")?.as_u64()),
            scaling_factor: facts.and_then(|facts| facts.get("scaling_factor")?.as_f64()),
            is_tiny: model.model_type == "taesd",
            is_resident,
        }
    }

    /// The same with the family that a tiny autoencoder's name is that of, where neither its files nor anybody say one: good enough
    /// for previews, which a wrong one only colours wrongly.
    pub fn by_name(mut self) -> Self {
        if self.base.is_none() && self.is_tiny {
            self.base = released(&self.name)
                .filter(|family| self.latent_channels.is_none_or(|channels| channels == family.latent_channels))
                .and_then(|family| family.bases.first())
                .map(|base| (*base).to_owned());
        }
        self
    }

    /// Whether latents of this family are its own: by its family, else by channels and scale, which are properties of one.
    /// Without any of these it is not known, and it is not taken.
    fn suits(&self, family: &Family) -> bool {
        match &self.base {
            Some(base) => family.bases.contains(&base.as_str()),
            None => {
                let same = |scale: f64| (scale - family.scaling_factor).abs() < 1e-6;
                self.scaling_factor.is_some_and(same)
                    && self.latent_channels.is_none_or(|channels| channels == family.latent_channels)
            }
        }
    }
}

/// Bases that share the space of their latents.
struct Family {
    bases: &'static [&'static str],
    latent_channels: u64,
    scaling_factor: f64,
    /// What its tiny autoencoder is called where it was released.
    tiny: &'static str,
}

const FAMILIES: [Family; 4] = [
    Family { bases: &["sd15", "sd21"], latent_channels: 4, scaling_factor: 0.18215, tiny: "taesd" },
    Family { bases: &["sdxl", "sdxl-refiner"], latent_channels: 4, scaling_factor: 0.13025, tiny: "taesdxl" },
    Family { bases: &["sd3"], latent_channels: 16, scaling_factor: 1.5305, tiny: "taesd3" },
    Family { bases: &["flux"], latent_channels: 16, scaling_factor: 0.3611, tiny: "taef1" },
];

/// The family whose tiny autoencoder has this name, alone or beside other words; none where several have.
fn released(name: &str) -> Option<&'static Family> {
    let name = name.to_lowercase();
    let words: Vec<&str> = name.split(|letter: char| !letter.is_alphanumeric()).collect();
    let mut named = FAMILIES.iter().filter(|family| words.contains(&family.tiny));
    named.next().filter(|_| named.next().is_none())
}

/// The VAE for a model of this base: a full one before a tiny one, one that is on the device before one on disk, then by name,
/// so that equal catalogues choose alike. None when none is known to suit.
pub fn choose<'c>(base: &str, candidates: &'c [Candidate]) -> Option<&'c Candidate> {
    let family = FAMILIES.iter().find(|family| family.bases.contains(&base))?;
    let suiting = candidates.iter().filter(|candidate| candidate.suits(family));
    suiting.min_by_key(|candidate| (candidate.is_tiny, !candidate.is_resident, candidate.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, base: Option<&str>, scale: Option<f64>) -> Candidate {
        Candidate {
            model: ModelId::generate(),
            name: name.into(),
            base: base.map(str::to_owned),
            latent_channels: None,
            scaling_factor: scale,
            is_tiny: false,
            is_resident: false,
        }
    }

    fn chosen<'c>(base: &str, candidates: &'c [Candidate]) -> Option<&'c str> {
        choose(base, candidates).map(|candidate| candidate.name.as_str())
    }

    #[test]
    fn a_vae_is_chosen_by_its_family_or_by_what_only_one_family_has() {
        let all = [
            candidate("a-unknown", None, None),
            candidate("b-sdxl", Some("sdxl"), None),
            candidate("c-by-scale", None, Some(0.18215)),
            Candidate { latent_channels: Some(16), ..candidate("d-flux", None, Some(0.3611)) },
        ];
        assert_eq!(chosen("sd15", &all), Some("c-by-scale"));
        assert_eq!(chosen("sd21", &all), Some("c-by-scale"));
        assert_eq!(chosen("sdxl-refiner", &all), Some("b-sdxl"));
        assert_eq!(chosen("flux", &all), Some("d-flux"));
        assert_eq!(chosen("sd3", &all), None, "nothing is guessed");
        assert_eq!(chosen("unknown", &all), None);
    }

    #[test]
    fn a_tiny_autoencoder_says_its_family_by_the_name_that_it_was_released_under() {
        let tiny = |name: &str, base, latent_channels| {
            let one = Candidate { is_tiny: true, latent_channels, ..candidate(name, base, None) };
            one.by_name().base
        };
        for (name, base) in [
            ("taesd_decoder", Some("sd15")),
            ("madebyollin/TAESDXL", Some("sdxl")),
            ("taesd3-decoder", Some("sd3")),
            ("taef1", Some("flux")),
            ("my-taesdxl2", None),
            ("taesd-or-taesdxl", None),
            ("tiny", None),
        ] {
            assert_eq!(tiny(name, None, None).as_deref(), base, "{name}");
        }
        assert_eq!(tiny("taesd", Some("sdxl"), None).as_deref(), Some("sdxl"), "what somebody said counts");
        assert_eq!(tiny("taesd", None, Some(16)), None, "its tensors are another family's");
        assert_eq!(candidate("taesd", None, None).by_name().base, None, "it is none");
    }

    #[test]
    fn full_ones_come_before_tiny_ones_and_resident_ones_before_others() {
        let tiny = Candidate { is_tiny: true, is_resident: true, ..candidate("a", Some("sdxl"), None) };
        let [first, second] = ["b", "c"].map(|name| candidate(name, Some("sdxl"), None));
        let resident = Candidate { is_resident: true, ..second.clone() };
        assert_eq!(chosen("sdxl", std::slice::from_ref(&tiny)), Some("a"));
        assert_eq!(chosen("sdxl", &[tiny.clone(), second, first.clone()]), Some("b"));
        assert_eq!(chosen("sdxl", &[tiny, first, resident]), Some("c"));
    }
}
