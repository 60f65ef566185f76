//! What a file's own metadata adds: only where the content leaves a question open.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Verdict;
use crate::vocab::{Base, ModelType};

/// Metadata keys that name a family, best first.
const FAMILY_KEYS: &[&str] = &["modelspec.architecture", "ss_base_model_version"];

/// Fills an open base and prediction, and records where metadata and content disagree.
pub(super) fn refine(verdict: &mut Verdict, metadata: &BTreeMap<String, String>) {
    let told = FAMILY_KEYS.iter().find_map(|key| {
        let value = metadata.get(*key)?;
        Some((*key, value.as_str(), family(value)?))
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
    let Some(prediction) = prediction(value) else {
        return;
    };
    let marked = verdict.evidence.iter().any(|evidence| evidence.rule == "prediction.marker");
    if marked || verdict.prediction.as_deref() == Some(prediction) {
        return;
    }
    verdict.saw("metadata.prediction", "modelspec.prediction_type", value);
    verdict.prediction = Some(prediction.to_owned());
}

fn prediction(value: &str) -> Option<&'static str> {
    match value.to_ascii_lowercase().as_str() {
        "v" | "v_prediction" | "v-prediction" => Some("v_prediction"),
        "epsilon" | "eps" => Some("epsilon"),
        _ => None,
    }
}

/// The prediction type a diffusers scheduler config sets.
pub(crate) fn from_scheduler(config: &Value) -> Option<String> {
    let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    if class.starts_with("FlowMatch") {
        return Some("flow".to_owned());
    }
    config.get("prediction_type").and_then(Value::as_str).map(str::to_owned)
}

/// The family a metadata value names.
fn family(value: &str) -> Option<Base> {
    let value = value.to_ascii_lowercase();
    // the first prefix that fits: the refiner before SDXL, SDXL before the others
    let known = [
        ("stable-diffusion-xl-v1-refiner", Base::SdxlRefiner),
        ("stable-diffusion-xl", Base::Sdxl),
        ("sdxl_base", Base::Sdxl),
        ("stable-diffusion-v1", Base::Sd15),
        ("sd_v1", Base::Sd15),
        ("stable-diffusion-v2", Base::Sd21),
        ("sd_v2", Base::Sd21),
        ("stable-diffusion-v3", Base::Sd3),
        ("stable-diffusion-3", Base::Sd3),
        ("sd3", Base::Sd3),
        ("flux-1", Base::Flux),
        ("flux1", Base::Flux),
    ];
    known.into_iter().find(|(prefix, _)| value.starts_with(prefix)).map(|(_, base)| base)
}
