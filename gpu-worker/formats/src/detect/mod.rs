//! What is this? Ordered rules over tensor names and shapes; the first that matches answers.

mod adapter;
mod autoencoder;
mod checkpoint;
mod encoder;
mod lora;
mod lora_base;
mod metadata;
mod other;
mod transformer;
mod unet;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    inspection::Evidence,
    keys::Keys,
    vocab::{Base, ModelType},
};

pub(crate) use metadata::from_scheduler as prediction_from_scheduler;

/// Prefixes of the denoiser inside a single-file checkpoint.
pub(crate) const DENOISER_PREFIX: &str = "model.diffusion_model.";

/// What the rules look at beside the tensors.
#[derive(Debug, Default)]
pub(crate) struct Hints<'a> {
    /// The file's `__metadata__`.
    pub(crate) metadata: Option<&'a BTreeMap<String, String>>,
    /// `config.json` beside a bare component.
    pub(crate) config: Option<&'a Value>,
}

/// The answer of the rules.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) model_type: ModelType,
    pub(crate) base: Base,
    pub(crate) prediction: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) facts: Map<String, Value>,
}

impl Verdict {
    /// A model of this type whose base is not known yet.
    fn of(model_type: ModelType) -> Self {
        Self {
            model_type,
            base: Base::Unknown,
            prediction: None,
            reason: None,
            evidence: Vec::new(),
            facts: Map::new(),
        }
    }

    /// Not recognised.
    fn unknown(reason: impl Into<String>) -> Self {
        let mut verdict = Self::of(ModelType::Unknown);
        verdict.reason = Some(reason.into());
        verdict
    }

    /// Takes over what the file's own metadata says about what its tensors leave open.
    pub(crate) fn refine(&mut self, metadata: &BTreeMap<String, String>) {
        metadata::refine(self, metadata);
    }

    fn saw(&mut self, rule: &'static str, matched: impl AsRef<str>, value: impl Into<Value>) {
        self.evidence.push(Evidence::new(rule, matched, value));
    }

    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Takes over what was found about a denoiser.
    fn adopt(&mut self, family: Family) {
        self.base = family.base;
        self.reason = family.reason;
        self.evidence.extend(family.evidence);
        self.facts.extend(family.facts);
    }
}

/// What a denoiser's names and shapes say about its family.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) base: Base,
    pub(crate) is_transformer: bool,
    pub(crate) reason: Option<String>,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) facts: Map<String, Value>,
}

impl Family {
    fn new(base: Base, is_transformer: bool) -> Self {
        Self { base, is_transformer, reason: None, evidence: Vec::new(), facts: Map::new() }
    }

    fn saw(&mut self, rule: &'static str, matched: impl AsRef<str>, value: impl Into<Value>) {
        self.evidence.push(Evidence::new(rule, matched, value));
    }
}

/// The family of the denoiser below `prefix`, in either naming.
pub(crate) fn denoiser(keys: &Keys<'_>, prefix: &'static str) -> Option<Family> {
    let scope = keys.scope(prefix);
    transformer::family(scope).or_else(|| unet::family(scope))
}

/// Applies the rules, and fills what they leave open from the metadata.
pub(crate) fn detect(keys: &Keys<'_>, hints: &Hints<'_>) -> Verdict {
    let mut verdict = judge(keys, hints.config);
    if let Some(map) = hints.metadata {
        verdict.refine(map);
    }
    verdict
}

/// Applies the rules in order. Adapters come before whole models: they reuse their names.
pub(crate) fn judge(keys: &Keys<'_>, config: Option<&Value>) -> Verdict {
    let rules: [&dyn Fn() -> Option<Verdict>; 13] = [
        &|| other::empty(keys),
        &|| adapter::ip_adapter(keys),
        &|| adapter::control_net(keys),
        &|| adapter::motion_module(keys),
        &|| lora::lora(keys),
        &|| checkpoint::checkpoint(keys),
        &|| adapter::t2i_adapter(keys),
        &|| other::embedding(keys),
        &|| checkpoint::bare_denoiser(keys),
        &|| autoencoder::taesd(keys),
        &|| autoencoder::vae(keys, config),
        &|| encoder::encoder(keys, config),
        &|| other::upscaler(keys),
    ];
    let verdict = rules.iter().find_map(|rule| rule());
    let mut verdict = verdict.unwrap_or_else(|| other::nothing_matched(keys));
    if verdict.evidence.is_empty() {
        other::sample(&mut verdict, keys);
    }
    verdict
}

#[cfg(test)]
mod tests;
