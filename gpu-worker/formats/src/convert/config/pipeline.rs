//! `model_index.json` and the scheduler of a pipeline's folder.

use serde_json::{Map, Value, json};

use super::{DIFFUSERS, Document, Part, made, side, tokenizer};
use crate::{
    convert::{ConvertError, Model, plan::MARKERS},
    vocab::{Base, ComponentKind, Format},
};

/// The scheduler: the source's, or the family's with the way that this model predicts.
pub(super) fn scheduler(model: &Model) -> Document {
    let path = "scheduler/scheduler_config.json";
    let own = model.inspection.metadata.get("configs").and_then(|configs| configs.get("scheduler"));
    match own.filter(|_| model.inspection.format == Format::Diffusers).cloned() {
        Some(mut config) => {
            if let (Some(said), Some(fields)) = (model.said_prediction(), config.as_object_mut()) {
                fields.insert("prediction_type".to_owned(), json!(said));
            }
            made(path, &config)
        }
        None => made(path, &Value::Object(family(model))),
    }
}

fn class(base: Base) -> &'static str {
    match base {
        Base::Sdxl | Base::SdxlRefiner => "EulerDiscreteScheduler",
        Base::Sd21 => "DDIMScheduler",
        _ => "PNDMScheduler",
    }
}

fn family(model: &Model) -> Map<String, Value> {
    let base = model.inspection.base;
    let mut config = object(json!({
        "_class_name": class(base),
        "_diffusers_version": DIFFUSERS,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "prediction_type": model.prediction(),
        "steps_offset": 1,
        "trained_betas": null,
    }));
    config.extend(object(match base {
        Base::Sdxl | Base::SdxlRefiner => json!({
            "interpolation_type": "linear", "timestep_spacing": "leading", "use_karras_sigmas": false,
        }),
        Base::Sd21 => json!({ "clip_sample": false, "set_alpha_to_one": false }),
        _ => json!({ "set_alpha_to_one": false, "skip_prk_steps": true }),
    }));
    if model.tensors.iter().any(|tensor| tensor.name == MARKERS[1]) {
        config.insert("rescale_betas_zero_snr".to_owned(), json!(true));
        config.insert("timestep_spacing".to_owned(), json!("trailing"));
    }
    config
}

/// The index.
pub(super) fn index(model: &Model, parts: &[Part], missing: &[String]) -> Result<Document, ConvertError> {
    let unet = parts.iter().find(|part| part.kind == ComponentKind::Unet);
    let unet = unet.ok_or(ConvertError::NoPart { component: ComponentKind::Unet, layout: "diffusers" })?;
    let inputs = side(&unet.canonical, "conv_in.weight", 1).map_err(refuse)?;
    let mut index = object(json!({
        "_class_name": pipeline(model.inspection.base, inputs).map_err(refuse)?,
        "_diffusers_version": DIFFUSERS,
        "scheduler": ["diffusers", scheduler_class(model)],
    }));
    index.extend(options(model.inspection.base));
    for part in parts {
        let (library, class) = match part.kind {
            ComponentKind::Unet => ("diffusers", "UNet2DConditionModel"),
            ComponentKind::Vae => ("diffusers", "AutoencoderKL"),
            _ if part.canonical.get("text_projection.weight").is_some() => {
                ("transformers", "CLIPTextModelWithProjection")
            }
            _ => ("transformers", "CLIPTextModel"),
        };
        index.insert(part.kind.to_string(), json!([library, class]));
        if let Some(folder) = tokenizer::folder(part.kind) {
            let is_missing = missing.iter().any(|missing| missing == folder);
            let entry = if is_missing { json!([null, null]) } else { json!(["transformers", "CLIPTokenizer"]) };
            index.insert(folder.to_owned(), entry);
        }
    }
    Ok(made("model_index.json", &Value::Object(index)))
}

fn refuse(why: String) -> ConvertError {
    ConvertError::Layout { layout: "diffusers", why }
}

fn scheduler_class(model: &Model) -> Value {
    let own = model.inspection.metadata.get("configs").and_then(|configs| configs.get("scheduler"));
    let own = own.filter(|_| model.inspection.format == Format::Diffusers).and_then(|own| own.get("_class_name"));
    own.cloned().unwrap_or_else(|| json!(class(model.inspection.base)))
}

/// The class by family and by what the UNet takes beside latents.
fn pipeline(base: Base, inputs: u64) -> Result<&'static str, String> {
    match (base, inputs) {
        (Base::SdxlRefiner, 4) => Ok("StableDiffusionXLImg2ImgPipeline"),
        (Base::Sdxl, 4) => Ok("StableDiffusionXLPipeline"),
        (Base::Sdxl, 8) => Ok("StableDiffusionXLInstructPix2PixPipeline"),
        (Base::Sdxl, 9) => Ok("StableDiffusionXLInpaintPipeline"),
        (Base::Sd15 | Base::Sd21, 4) => Ok("StableDiffusionPipeline"),
        (Base::Sd15 | Base::Sd21, 8) => Ok("StableDiffusionInstructPix2PixPipeline"),
        (Base::Sd15 | Base::Sd21, 9) => Ok("StableDiffusionInpaintPipeline"),
        (base, inputs) => Err(format!("no pipeline of {base} takes {inputs} channels")),
    }
}

/// What pipelines ask for beside their parts, and parts that they do without.
fn options(base: Base) -> Map<String, Value> {
    let nothing = json!([null, null]);
    object(match base {
        Base::Sdxl => json!({ "force_zeros_for_empty_prompt": true }),
        Base::SdxlRefiner => json!({
            "force_zeros_for_empty_prompt": false, "requires_aesthetics_score": true,
            "text_encoder": nothing, "tokenizer": nothing,
        }),
        _ => json!({ "feature_extractor": nothing, "requires_safety_checker": false, "safety_checker": nothing }),
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
