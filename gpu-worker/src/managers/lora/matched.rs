//! What a LoRA does to the parts of one model, without its factors: small enough to be remembered.

use std::{collections::BTreeMap, num::NonZeroUsize};

use engine::lora::{BaseTensor, Lora, Module, Report, estimate};

/// Modules and tensors that are told by name of those that are not used.
const EXAMPLES: usize = 3;

/// What of a LoRA's file no model is changed by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unused {
    /// Modules that the model does not have.
    pub modules: usize,
    /// Some of these, by their names in the file.
    pub module_examples: Vec<String>,
    /// Tensors that belong to no module: embeddings that came along, layers that were trained whole.
    pub tensors: usize,
    /// Some of these.
    pub tensor_examples: Vec<String>,
}

impl Unused {
    /// From the names of all.
    pub fn of(modules: &[String], tensors: &[String]) -> Self {
        let some = |names: &[String]| names.iter().take(EXAMPLES).cloned().collect();
        Self {
            modules: modules.len(),
            module_examples: some(modules),
            tensors: tensors.len(),
            tensor_examples: some(tensors),
        }
    }
}

/// A module of a LoRA that the base has.
#[derive(Debug, Clone, PartialEq)]
pub struct Touch {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The part of the model: `unet`, `text_encoder`, ….
    pub component: String,
    /// The canonical path of the base's module.
    pub path: String,
    /// The base's tensors that it changes, with their bytes.
    pub tensors: Vec<(String, u64)>,
}

/// A LoRA against a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matched {
    /// Why it is not for this model.
    pub refusal: Option<String>,
    /// Modules that change something, by stem.
    pub touches: Vec<Touch>,
    /// Modules that fit and change nothing, as their scale is 0.
    pub scaled_to_zero: usize,
    /// What of it is not used.
    pub unused: Unused,
    /// Seconds that computing all its changes would take on this host's processors, as a sample of them tells.
    pub estimated_seconds: f64,
}

impl Matched {
    /// From a LoRA that was read and compared with the base.
    pub fn of(lora: &Lora, report: &Report, base: &[BaseTensor], threads: NonZeroUsize) -> Self {
        let bytes: BTreeMap<(&str, &str), u64> =
            base.iter().map(|tensor| ((tensor.component.as_str(), tensor.name.as_str()), tensor.bytes)).collect();
        let modules: BTreeMap<&str, &Module> =
            lora.modules.iter().map(|module| (module.stem.as_str(), module)).collect();
        let refusal = report.refusal();
        let estimated_seconds = if refusal.is_some() { 0.0 } else { estimate(lora, report, threads).as_secs_f64() };
        let unused = Unused::of(&report.unmatched, &lora.others);
        let mut matched = Self { refusal, unused, estimated_seconds, ..Self::default() };
        for fit in &report.matched {
            let Some(module) = modules.get(fit.stem.as_str()) else { continue };
            let tensor = |leaf: &str| {
                let name = format!("{}.{leaf}", fit.path);
                let bytes = bytes.get(&(fit.component.as_str(), name.as_str())).copied().unwrap_or(0);
                (name, bytes)
            };
            // a change of a bias has no scale of its own
            let weight = (module.changes_weight() && module.scale != 0.0).then(|| tensor("weight"));
            let bias = module.changes_bias().then(|| tensor("bias"));
            let tensors: Vec<(String, u64)> = weight.into_iter().chain(bias).collect();
            if tensors.is_empty() {
                matched.scaled_to_zero += 1;
                continue;
            }
            let (stem, component, path) = (fit.stem.clone(), fit.component.clone(), fit.path.clone());
            matched.touches.push(Touch { stem, component, path, tensors });
        }
        matched
    }
}
