//! What the headers of converted files say: the source's own fields, ModelSpec, and where the model comes from.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Model, OutFile, OutTensor, Request, goal::Goal};
use crate::{
    vocab::{Base, Format, ModelType},
    write::{JOB_KEY, WriteError, framed},
};

/// ModelSpec's SHA-256 of what follows the header.
pub(super) const HASH_KEY: &str = "modelspec.hash_sha256";
/// Where its digits will be: a header has the same length before and after they are known.
pub(super) const NO_HASH: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";
/// Fields of the source that are not true of other bytes.
const STALE: [&str; 5] = [HASH_KEY, "sshs_model_hash", "sshs_legacy_hash", JOB_KEY, "modelspec.merged_from"];
/// The version of ModelSpec that the fields follow.
const SPEC: &str = "1.0.1";
/// Whose names and shapes single files have.
const ORIGINAL: &str = "https://github.com/Stability-AI/generative-models";

/// Gives every file its fields.
pub(super) fn describe(files: &mut [OutFile], model: &Model, goal: Goal, request: &Request) {
    for file in files {
        let mut fields = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        if matches!(goal, Goal::SameFile | Goal::Original { .. }) {
            fields.extend(model.metadata.iter().filter(|(key, _)| !STALE.contains(&key.as_str())).map(owned));
            fields.extend(spec(model, goal, request));
            fields.insert(HASH_KEY.to_owned(), NO_HASH.to_owned());
            fields.extend(request.metadata.iter().map(owned));
        } else {
            fields.extend(request.metadata.iter().filter(|(key, _)| *key == JOB_KEY).map(owned));
        }
        file.metadata = fields;
    }
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn spec(model: &Model, goal: Goal, request: &Request) -> Vec<(String, String)> {
    let inspection = &model.inspection;
    let field = |key: &str, value: &str| (format!("modelspec.{key}"), value.to_owned());
    let mut fields = vec![field("sai_model_spec", SPEC), field("title", &request.title)];
    if let Some((architecture, resolution)) = architecture(model) {
        let implementation =
            if inspection.format == Format::Diffusers && goal == Goal::SameFile { "diffusers" } else { ORIGINAL };
        fields.push(field("architecture", &architecture));
        fields.push(field("implementation", implementation));
        fields.push(field("resolution", resolution));
    }
    if model.prediction() == "v_prediction" {
        fields.push(field("prediction_type", "v"));
    }
    fields
}

/// ModelSpec's name of the architecture, and the size of picture that it was trained for.
fn architecture(model: &Model) -> Option<(String, &'static str)> {
    let inspection = &model.inspection;
    let is_v = model.prediction() == "v_prediction";
    let (name, resolution) = match inspection.base {
        Base::Sd15 => ("stable-diffusion-v1", "512x512"),
        Base::Sd21 if is_v => ("stable-diffusion-v2-768-v", "768x768"),
        Base::Sd21 => ("stable-diffusion-v2-512", "512x512"),
        Base::Sdxl => ("stable-diffusion-xl-v1-base", "1024x1024"),
        Base::SdxlRefiner => ("stable-diffusion-xl-v1-refiner", "1024x1024"),
        Base::Sd3 | Base::Flux | Base::Unknown => return None,
    };
    let suffix = match inspection.model_type {
        ModelType::Vae => "/vae",
        ModelType::Lora => "/lora",
        ModelType::ControlNet => "/controlnet",
        ModelType::Embedding => "/textual-inversion",
        _ => "",
    };
    Some((format!("{name}{suffix}"), resolution))
}

/// The header's bytes, and where each tensor begins behind it.
pub(super) fn bytes(file: &OutFile, hash: Option<&str>) -> Result<(Vec<u8>, Vec<u64>), WriteError> {
    let mut fields = file.metadata.clone();
    if let (Some(hash), Some(value)) = (hash, fields.get_mut(HASH_KEY)) {
        *value = format!("0x{hash}");
    }
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!(fields));
    let mut at = 0_u64;
    let mut begins = Vec::with_capacity(file.tensors.len());
    for tensor in &file.tensors {
        let end = at.saturating_add(tensor.bytes());
        entries.insert(tensor.name.clone(), entry(tensor, [at, end]));
        begins.push(at);
        at = end;
    }
    framed(&Value::Object(entries), std::path::Path::new(&file.path)).map(|bytes| (bytes, begins))
}

fn entry(tensor: &OutTensor, offsets: [u64; 2]) -> Value {
    json!({ "dtype": tensor.dtype.as_str(), "shape": tensor.shape, "data_offsets": offsets })
}
