//! The family of a pipeline folder: its denoiser's tensors first, then its class and configs.

use serde_json::Value;

use super::{INDEX_NAME, folder::Folder};
use crate::{
    detect::denoiser,
    inspection::{Evidence, Inspection},
    keys::Keys,
    vocab::{Base, ComponentKind},
};

/// Sets the base with its evidence.
pub(super) fn decide(inspection: &mut Inspection, folder: &mut Folder<'_>, index: &Value, class: &str) {
    let by_class = by_class(folder, index, class);
    let denoisers = [ComponentKind::Unet, ComponentKind::Transformer];
    let part = folder.components.iter().find(|component| denoisers.contains(&component.kind));
    let family = part.and_then(|part| denoiser(&Keys::new(&part.tensors), ""));
    let Some(family) = family else {
        inspection.base = by_class.unwrap_or(Base::Unknown);
        inspection.evidence.push(Evidence::new("diffusers.base_by_class", INDEX_NAME, inspection.base.as_str()));
        let is_graph = folder.graphs.contains_key("unet") || folder.graphs.contains_key("transformer");
        if part.is_some() && !is_graph {
            folder.problems.push("the denoiser's tensors are of no architecture known here".to_owned());
        }
        return;
    };
    inspection.base = family.base;
    inspection.reason = family.reason;
    inspection.evidence.extend(family.evidence);
    folder.facts.extend(family.facts);
    match by_class {
        Some(told) if family.base == Base::Unknown => {
            inspection.evidence.push(Evidence::new("diffusers.class_suggests", INDEX_NAME, told.as_str()));
        }
        Some(told) if told != family.base => {
            inspection.evidence.push(Evidence::new("diffusers.class_disagrees", INDEX_NAME, told.as_str()));
        }
        _ => {}
    }
}

/// What the pipeline class and the denoiser's config, or its graph, say.
fn by_class(folder: &Folder<'_>, index: &Value, class: &str) -> Option<Base> {
    // the ONNX forms of a pipeline: of diffusers, and of optimum
    let class = class.strip_prefix("Onnx").or_else(|| class.strip_prefix("ORT")).unwrap_or(class);
    if class.starts_with("StableDiffusionXL") {
        let no_first_encoder = index.get("text_encoder").is_none_or(|pair| pair.get(0).is_none_or(Value::is_null));
        return Some(if no_first_encoder { Base::SdxlRefiner } else { Base::Sdxl });
    }
    if class.starts_with("StableDiffusion3") {
        return Some(Base::Sd3);
    }
    if class.starts_with("Flux2") {
        return None;
    }
    if class.starts_with("Flux") {
        return Some(Base::Flux);
    }
    if !class.starts_with("StableDiffusion") {
        return None;
    }
    let told = folder.configs.get("unet").and_then(|config| config.get("cross_attention_dim")?.as_u64());
    match told.or_else(|| graph_width(folder)) {
        Some(768) => Some(Base::Sd15),
        Some(1024) => Some(Base::Sd21),
        _ => None,
    }
}

/// The width of the text that a UNet's graph takes; exporters leave it as a number.
fn graph_width(folder: &Folder<'_>) -> Option<u64> {
    let inputs = folder.graphs.get("unet")?.get("inputs")?.as_array()?;
    let text = inputs.iter().find(|port| port.get("name").is_some_and(|name| name == "encoder_hidden_states"))?;
    text.get("shape")?.as_array()?.last()?.as_str()?.parse().ok()
}
