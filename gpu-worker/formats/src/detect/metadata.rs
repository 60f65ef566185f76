//! What a file's own metadata adds: only where the content leaves a question open.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Verdict;
use crate::{
    metadata::claim,
    vocab::{Base, ModelType},
};

/// Metadata keys that name a family, best first.
const FAMILY_KEYS: &[&str] = &["modelspec.architecture", "ss_base_model_version"];

/// Fills an open base and prediction, and records where metadata and content disagree.
pub(super) fn refine(verdict: &mut Verdict, metadata: &BTreeMap<String, String>) {
    let told = FAMILY_KEYS.iter().find_map(|key| {
        let value = metadata.get(*key)?;
        Some((*key, value.as_str(), claim::base(value)?))
    });
    if let Some((key, value, base)) = told {
        refine_base(verdict, key, value, base);
    }
    if let Some(value) = metadata.get("modelspec.prediction_type") {
        refine_prediction(verdict, value);
    }
}

fn refine_base(verdict: &mut Verdict, key: &'static str, value: &str, base: Base) {
    // a denoiser tells its family by itself; where it does not, its metadata is inherited or wrong
    let open = matches!(
        verdict.model_type,
        ModelType::Vae
            | ModelType::Taesd
            | ModelType::TextEncoder
            | ModelType::Lora
            | ModelType::ControlNet
            | ModelType::T2iAdapter
            | ModelType::IpAdapter
            | ModelType::Embedding
    );
    if verdict.base == Base::Unknown && open {
        verdict.saw("metadata.base", key, value);
        verdict.base = base;
        verdict.reason = None;
    } else if verdict.base != Base::Unknown && verdict.base != base {
        verdict.saw("metadata.disagrees", key, value);
    }
}

fn refine_prediction(verdict: &mut Verdict, value: &str) {
    if !matches!(verdict.model_type, ModelType::Checkpoint | ModelType::Unet) {
        return;
    }
    let Some(prediction) = claim::prediction(value) else {
        return;
    };
    let marked = verdict.evidence.iter().any(|evidence| evidence.rule == "prediction.marker");
    if marked || verdict.prediction.as_deref() == Some(prediction) {
        return;
    }
    verdict.saw("metadata.prediction", "modelspec.prediction_type", value);
    verdict.prediction = Some(prediction.to_owned());
}

/// The prediction type a diffusers scheduler config sets.
pub(crate) fn from_scheduler(config: &Value) -> Option<String> {
    let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    if class.starts_with("FlowMatch") {
        return Some("flow".to_owned());
    }
    // what is none of these says nothing, and may be anything
    config.get("prediction_type").and_then(Value::as_str).and_then(claim::prediction).map(str::to_owned)
}
