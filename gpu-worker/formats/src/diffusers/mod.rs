//! Diffusers folders: one model made of component sub-folders named by `model_index.json`.

mod family;
mod folder;
pub(crate) mod index;
mod single;
pub(crate) mod variants;
pub(crate) mod weights;

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    components::variant,
    correction::Correction,
    detect::prediction_from_scheduler,
    error::{ErrorKind, FormatError},
    inspect::{CONFIG_LIMIT_BYTES, Extent, unknown},
    inspection::{Evidence, Inspection},
    probe::{read_json, stat},
    vocab::{Base, Format, ModelType},
    write::{MADE_FROM_KEY, NOTE_FILE, NOTE_SCHEMA},
};
use folder::Folder;

/// The file that makes a folder a model.
pub(crate) const INDEX_NAME: &str = "model_index.json";

/// Inspects the folder at `path`.
pub(crate) fn inspect(path: &Path, correction: &Correction, extent: Extent) -> Result<Inspection, FormatError> {
    let index_path = path.join(INDEX_NAME);
    let (document, facts) = match read_json(&index_path, INDEX_NAME, "pipeline index", CONFIG_LIMIT_BYTES) {
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::Missing => return no_pipeline(path, correction, extent),
        Err(error) => return without_index(path, &index_path, error),
    };
    let mut inspection = unknown(path, Format::Diffusers, Vec::new());
    let mut folder = Folder::new(path, facts, correction.variant.as_deref(), extent);
    folder.read(&document)?;
    let class = document.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    inspection.evidence.push(Evidence::new("diffusers.class", INDEX_NAME, class));
    inspection.evidence.append(&mut folder.evidence);
    let has_denoiser = folder.names("unet") || folder.names("transformer");
    if has_denoiser {
        inspection.model_type = ModelType::Checkpoint;
        family::decide(&mut inspection, &mut folder, &document, class);
    } else {
        inspection.reason =
            Some(format!("the pipeline `{}` has neither `unet` nor `transformer`", crate::text::shown(class)));
        folder.components.clear();
    }
    prediction(&mut inspection, &folder);
    finish(&mut inspection, folder);
    made_from(path, &mut inspection);
    inspection.correct(correction);
    Ok(inspection)
}

/// A folder without an index: one component, a tokenizer, or no model.
fn no_pipeline(path: &Path, correction: &Correction, extent: Extent) -> Result<Inspection, FormatError> {
    if let Some(component) = single::inspect(path, correction, extent)? {
        return Ok(component);
    }
    let names = weights::names(path)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if crate::tokenizer::is_tokenizer(&names) {
        return crate::tokenizer::inspect(path);
    }
    let mut inspection = unknown(path, Format::Unknown, Vec::new());
    inspection.reason = Some(format!("a folder without {INDEX_NAME} is not a model"));
    Ok(inspection)
}

/// An index that cannot be used.
fn without_index(path: &Path, index_path: &Path, error: FormatError) -> Result<Inspection, FormatError> {
    if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Unreadable) {
        return Err(error);
    }
    let mut inspection = unknown(path, Format::Diffusers, stat(index_path, INDEX_NAME).into_iter().collect());
    inspection.refuse(&error);
    Ok(inspection)
}

fn prediction(inspection: &mut Inspection, folder: &Folder<'_>) {
    let told = folder.configs.get("scheduler").and_then(prediction_from_scheduler);
    if let Some(told) = told {
        inspection.evidence.push(Evidence::new(
            "prediction.scheduler",
            "scheduler/scheduler_config.json",
            told.as_str(),
        ));
        inspection.prediction = Some(told);
    }
}

/// What a folder that was converted here says of where it comes from, under the key that single files have for it.
pub(crate) fn made_from(path: &Path, inspection: &mut Inspection) {
    let Ok((note, _)) = read_json(&path.join(NOTE_FILE), NOTE_FILE, "note", CONFIG_LIMIT_BYTES) else { return };
    let is_ours = note.get("schema").and_then(Value::as_str) == Some(NOTE_SCHEMA);
    if let Some(made_from) = note.get("made_from").filter(|made_from| is_ours && made_from.is_object()) {
        let text = crate::text::storable_json(made_from.clone()).to_string();
        inspection.metadata.insert(MADE_FROM_KEY.to_owned(), Value::String(text));
    }
}

fn finish(inspection: &mut Inspection, folder: Folder<'_>) {
    if !folder.problems.is_empty() {
        let problems = folder.problems.join("; ");
        inspection.reason = Some(match inspection.reason.take() {
            Some(reason) => format!("{reason}; {problems}"),
            None => problems,
        });
    }
    if inspection.base == Base::Unknown && inspection.reason.is_none() {
        inspection.reason = Some("base unknown: neither the denoiser nor the pipeline class tells it".to_owned());
    }
    let mut facts = folder.facts;
    facts.insert("missing_components".to_owned(), json!(folder.missing));
    facts.insert("not_loaded".to_owned(), json!(folder.not_loaded));
    facts.insert("tokenizers".to_owned(), json!(folder.tokenizers));
    if !folder.graphs.is_empty() {
        inspection.metadata.insert("onnx".to_owned(), crate::text::storable_json(Value::Object(folder.graphs)));
    }
    inspection.metadata.insert("configs".to_owned(), crate::text::storable_json(Value::Object(folder.configs)));
    inspection.metadata.insert("facts".to_owned(), crate::text::storable_json(Value::Object(facts)));
    folder.variants.keep(inspection);
    inspection.variant = variant(&folder.components);
    inspection.size_bytes = folder.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
    inspection.components = folder.components;
    inspection.files = folder.files;
}

#[cfg(test)]
mod tests;
