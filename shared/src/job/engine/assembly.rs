//! What runs take beside a model's own parts: another VAE, other text encoders, a stack of LoRAs.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{
    faults::{Fault, Faults},
    role::Role,
    vae::VaeSettings,
};
use crate::ids::ModelId;

/// Bounds of a weight.
const WEIGHT: std::ops::RangeInclusive<f64> = -100.0..=100.0;
/// Most LoRAs of a stack.
const LORAS: usize = 64;
/// Most blocks of one LoRA with a weight of their own.
const BLOCKS: usize = 200;
/// Longest path of a block, in bytes.
const BLOCK_BYTES: usize = 200;
/// Kinds of components that another model's text encoder can stand in for.
pub const ENCODER_KINDS: [&str; 3] = ["text_encoder", "text_encoder_2", "text_encoder_3"];

/// One LoRA of a stack, and how strongly it is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraUse<M = ModelId> {
    /// The LoRA.
    pub lora: M,
    /// How strongly, -100 to 100.
    #[serde(default = "whole")]
    pub weight: f64,
    /// How strongly in the text encoders; as `weight` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_weight: Option<f64>,
    /// Paths of blocks of the UNet (`down_blocks.1`, `mid_block`, `up_blocks.0.attentions.1`), each with the factor by which
    /// `weight` is multiplied there; the longest path that fits a module counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, f64>,
}

/// A model with what replaces and changes its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assembly<M = ModelId> {
    /// The model.
    pub model: M,
    /// Another model whose VAE takes the place of its own.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub vae: Option<M>,
    /// How the VAE runs.
    #[serde(default)]
    pub vae_settings: VaeSettings,
    /// Other models whose text encoder takes the place of the one of this kind (`text_encoder`, `text_encoder_2`).
    #[serde(default = "no_encoders", skip_serializing_if = "BTreeMap::is_empty")]
    pub text_encoders: BTreeMap<String, M>,
    /// The stack of LoRAs; their order makes no difference.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<M>>,
}

/// A model that takes part in work: the pointer to the field that names it, and what it does.
pub type TakingPart<'a, M> = (Cow<'static, str>, &'a M, Role);

fn whole() -> f64 {
    1.0
}

/// `Option<M>::default` without the bound that serde would put on `M`.
fn none<M>() -> Option<M> {
    None
}

/// As [`none`], of encoders.
pub(super) fn no_encoders<M>() -> BTreeMap<String, M> {
    BTreeMap::new()
}

/// Which of a model's components (by kind) is the text encoder that stands in for one of `kind`: the one of the same kind,
/// else the only text encoder that there is.
pub fn stand_in<'a>(kind: &str, there: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let encoders: Vec<&str> = there.into_iter().filter(|there| ENCODER_KINDS.contains(there)).collect();
    match encoders.as_slice() {
        [only] => Some(only),
        several => several.iter().find(|there| **there == kind).copied(),
    }
}

/// What is wrong with what arguments say beside a model.
pub(in crate::job) fn stack_faults<M>(encoders: &BTreeMap<String, M>, loras: &[LoraUse<M>]) -> Vec<Fault> {
    let mut faults = Faults::default();
    check_encoders(encoders, "/text_encoders", &mut faults);
    check_loras(loras, "/loras", &mut faults);
    faults.end()
}

pub(super) fn check_loras<M>(loras: &[LoraUse<M>], pointer: &str, faults: &mut Faults) {
    if loras.len() > LORAS {
        faults.add(pointer, format!("{} LoRAs, more than {LORAS}", loras.len()));
    }
    for (index, used) in loras.iter().enumerate().take(LORAS) {
        used.check(&format!("{pointer}/{index}"), faults);
    }
}

pub(super) fn check_encoders<M>(encoders: &BTreeMap<String, M>, pointer: &str, faults: &mut Faults) {
    for kind in encoders.keys().filter(|kind| !ENCODER_KINDS.contains(&kind.as_str())) {
        let kinds = ENCODER_KINDS.join(", ");
        faults.add(format!("{pointer}/{}", escaped(kind)), format!("`{kind}` is not one of {kinds}"));
    }
}

/// The encoders and LoRAs among the models that take part, in the order in which they are named.
pub(in crate::job) fn parts<'a, M>(
    encoders: &'a BTreeMap<String, M>,
    loras: &'a [LoraUse<M>],
) -> Vec<TakingPart<'a, M>> {
    let of_encoders = encoders
        .iter()
        .map(|(kind, model)| (Cow::Owned(format!("/text_encoders/{}", escaped(kind))), model, Role::TextEncoders));
    of_encoders.chain(lora_parts(loras)).collect()
}

/// The LoRAs among the models that take part.
pub(super) fn lora_parts<M>(loras: &[LoraUse<M>]) -> impl Iterator<Item = TakingPart<'_, M>> {
    let pointer = |index| Cow::Owned(format!("/loras/{index}/lora"));
    loras.iter().enumerate().map(move |(index, used)| (pointer(index), &used.lora, Role::Lora))
}

/// A key of an object as a part of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

pub(in crate::job) fn name_encoders<M, N, E>(
    encoders: BTreeMap<String, M>,
    name: &mut impl FnMut(M) -> Result<N, E>,
) -> Result<BTreeMap<String, N>, E> {
    encoders.into_iter().map(|(kind, model)| Ok((kind, name(model)?))).collect()
}

pub(in crate::job) fn name_loras<M, N, E>(
    loras: Vec<LoraUse<M>>,
    name: &mut impl FnMut(M) -> Result<N, E>,
) -> Result<Vec<LoraUse<N>>, E> {
    loras.into_iter().map(|used| used.try_with_model(name)).collect()
}

impl<M> LoraUse<M> {
    /// A LoRA at this weight, everywhere.
    pub fn at(lora: M, weight: f64) -> Self {
        Self { lora, weight, text_encoder_weight: None, blocks: BTreeMap::new() }
    }

    fn check(&self, pointer: &str, faults: &mut Faults) {
        faults.range(&format!("{pointer}/weight"), self.weight, &WEIGHT);
        if let Some(weight) = self.text_encoder_weight {
            faults.range(&format!("{pointer}/text_encoder_weight"), weight, &WEIGHT);
        }
        if self.blocks.len() > BLOCKS {
            faults.add(format!("{pointer}/blocks"), format!("{} blocks, more than {BLOCKS}", self.blocks.len()));
        }
        for (block, weight) in self.blocks.iter().take(BLOCKS) {
            let at = format!("{pointer}/blocks/{}", escaped(block));
            faults.text(&at, block, BLOCK_BYTES);
            faults.range(&at, *weight, &WEIGHT);
        }
    }

    /// The same of a LoRA that is named otherwise.
    ///
    /// # Errors
    /// That of `name`.
    pub fn try_with_model<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<LoraUse<N>, E> {
        let Self { lora, weight, text_encoder_weight, blocks } = self;
        Ok(LoraUse { lora: name(lora)?, weight, text_encoder_weight, blocks })
    }
}

impl<M> Assembly<M> {
    /// A model as it is.
    pub fn of(model: M) -> Self {
        Self {
            model,
            vae: None,
            vae_settings: VaeSettings::default(),
            text_encoders: BTreeMap::new(),
            loras: Vec::new(),
        }
    }

    /// What is wrong with it.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.vae_settings.check("/vae_settings", &mut faults);
        check_encoders(&self.text_encoders, "/text_encoders", &mut faults);
        check_loras(&self.loras, "/loras", &mut faults);
        faults.end()
    }

    /// The models that take part; the first is the one that is assembled upon.
    pub fn models(&self) -> Vec<TakingPart<'_, M>> {
        let base = if self.vae.is_some() { Role::WithoutVae } else { Role::Pipeline };
        let vae = self.vae.iter().map(|vae| ("/vae".into(), vae, Role::VaeDecoder));
        let others = parts(&self.text_encoders, &self.loras);
        [("/model".into(), &self.model, base)].into_iter().chain(vae).chain(others).collect()
    }

    /// The same with every model named otherwise, in the order of [`Assembly::models`].
    ///
    /// # Errors
    /// The first of `name`.
    pub fn try_with_models<N, E>(self, mut name: impl FnMut(M) -> Result<N, E>) -> Result<Assembly<N>, E> {
        let Self { model, vae, vae_settings, text_encoders, loras } = self;
        Ok(Assembly {
            model: name(model)?,
            vae: vae.map(&mut name).transpose()?,
            vae_settings,
            text_encoders: name_encoders(text_encoders, &mut name)?,
            loras: name_loras(loras, &mut name)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn assembly(value: serde_json::Value) -> Assembly<String> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_left_out_is_the_default_and_the_stored_form_round_trips() {
        let plain = assembly(json!({ "model": "m" }));
        assert_eq!(plain, Assembly::of("m".to_owned()));
        let full = assembly(json!({
            "model": "m", "vae": "v", "text_encoders": { "text_encoder_2": "g" },
            "loras": [{ "lora": "a" }, { "lora": "b", "weight": -0.5, "blocks": { "mid_block": 0 } }],
        }));
        assert_eq!((full.loras[0].weight, full.loras[1].weight), (1.0, -0.5));
        assert_eq!(assembly(serde_json::to_value(&full).unwrap()), full);
    }

    #[test]
    fn models_are_named_in_the_order_in_which_they_are_listed() {
        let full = assembly(json!({
            "model": "m", "vae": "v", "text_encoders": { "text_encoder_2": "g", "text_encoder": "l" },
            "loras": [{ "lora": "a" }, { "lora": "b" }],
        }));
        let listed: Vec<(String, String)> =
            full.models().into_iter().map(|(pointer, model, _)| (pointer.into_owned(), model.clone())).collect();
        let pointers = ["/model", "/vae", "/text_encoders/text_encoder", "/text_encoders/text_encoder_2"];
        assert!(listed.iter().map(|(pointer, _)| pointer.as_str()).take(4).eq(pointers));
        assert_eq!(listed[5], ("/loras/1/lora".to_owned(), "b".to_owned()));
        let mut named = Vec::new();
        let Ok(_) = full.try_with_models(|model| {
            named.push(model);
            Ok::<_, std::convert::Infallible>(())
        });
        assert!(named.iter().eq(listed.iter().map(|(_, model)| model)));
    }

    #[test]
    fn every_fault_is_named() {
        let blocks: BTreeMap<String, f64> = (0..201).map(|n| (format!("b{n}"), 1.0)).collect();
        let wrong = assembly(json!({
            "model": "m", "vae_settings": { "scaling_factor": 0.0 }, "text_encoders": { "clip/l": "x" },
            "loras": [{ "lora": "a", "weight": 101 }, { "lora": "b", "text_encoder_weight": -101 },
                { "lora": "c", "blocks": { "mid_block": 1e9 } }, { "lora": "d", "blocks": blocks }],
        }));
        let pointers: Vec<String> = wrong.faults().into_iter().map(|fault| fault.pointer).collect();
        let expected = [
            "/vae_settings/scaling_factor",
            "/text_encoders/clip~1l",
            "/loras/0/weight",
            "/loras/1/text_encoder_weight",
            "/loras/2/blocks/mid_block",
            "/loras/3/blocks",
        ];
        assert_eq!(pointers, expected);
        let mut many = Assembly::of("m".to_owned());
        many.loras = (0..65).map(|n| LoraUse::at(n.to_string(), f64::NAN)).collect();
        assert_eq!(many.faults().len(), 65, "one of the number, and one for each weight that is looked at");
    }

    #[test]
    fn an_encoder_stands_in_by_its_kind_or_alone() {
        assert_eq!(stand_in("text_encoder_2", ["unet", "text_encoder", "text_encoder_2"]), Some("text_encoder_2"));
        assert_eq!(stand_in("text_encoder_2", ["text_encoder"]), Some("text_encoder"));
        assert_eq!(stand_in("text_encoder_3", ["text_encoder", "text_encoder_2"]), None);
        assert_eq!(stand_in("text_encoder", ["vae"]), None);
    }
}
