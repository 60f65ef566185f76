//! The small files of a diffusers folder: those of the source where it is one, else made from the tensors and the family.

mod clip;
mod pipeline;
mod tokenizer;
mod unet;
mod vae;

use std::path::Path;

use serde_json::{Value, json};
pub use tokenizer::Tokenizer;

use super::{ConvertError, Document, Model, Request, goal::Goal, parts::Part};
use crate::{
    architecture::{Difference, compare, expected},
    canonical::Canonical,
    inspection::FileFacts,
    vocab::{Base, ComponentKind},
    write::{JOB_KEY, MADE_FROM_KEY, NOTE_FILE, NOTE_SCHEMA},
};

/// The diffusers version whose form the configs have.
const DIFFUSERS: &str = "0.19.0";

/// The file of a part's weights in its folder.
pub(super) const fn weights_file(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::TextEncoder | ComponentKind::TextEncoder2 | ComponentKind::TextEncoder3 => "model.safetensors",
        _ => "diffusion_pytorch_model.safetensors",
    }
}

/// The small files of a folder that keeps its names: all but weights.
pub(super) fn copied(model: &Model) -> Vec<Document> {
    let is_weights = |path: &str| {
        [".safetensors", ".bin", ".index.json", ".onnx", ".pb"].iter().any(|end| path.ends_with(end))
            || path.contains(".safetensors.index.")
    };
    let files = model.inspection.files.iter().filter(|file| !is_weights(&file.rel_path));
    files.map(|file| copy(file, &file.rel_path)).collect()
}

fn copy(file: &FileFacts, path: &str) -> Document {
    Document { path: path.to_owned(), text: Vec::new(), copy_of: Some(file.clone()) }
}

/// A made document.
fn made(path: impl Into<String>, value: &Value) -> Document {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    Document { path: path.into(), text, copy_of: None }
}

/// What a folder says of where it comes from, as the header of a single file does.
pub(super) fn note(request: &Request) -> Document {
    let made_from = request.metadata.get(MADE_FROM_KEY).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let note = json!({ "schema": NOTE_SCHEMA, "job": request.metadata.get(JOB_KEY), "made_from": made_from });
    made(NOTE_FILE, &note)
}

/// The small files of a folder in canonical form, and what of it could not be made.
pub(super) fn documents(
    model: &Model,
    vae: Option<&Model>,
    parts: &[Part],
    request: &Request,
    goal: Goal,
) -> Result<(Vec<Document>, Vec<String>), ConvertError> {
    let mut documents = Vec::new();
    for part in parts {
        let owner = if part.model == 1 { vae.unwrap_or(model) } else { model };
        let config = config(owner, model.inspection.base, part, request)?;
        let path =
            if goal == Goal::PartFolder { "config.json".to_owned() } else { format!("{}/config.json", part.kind) };
        documents.push(made(path, &config));
    }
    if goal == Goal::PartFolder {
        return Ok((documents, Vec::new()));
    }
    let (tokenizers, missing) = tokenizer::documents(model, parts, request);
    documents.extend(tokenizers);
    documents.push(pipeline::scheduler(model));
    documents.push(pipeline::index(model, parts, &missing)?);
    Ok((documents, missing))
}

/// A part's config: the one that it comes with, or one made from its tensors. Either has to lead to exactly these tensors.
fn config(owner: &Model, base: Base, part: &Part, request: &Request) -> Result<Value, ConvertError> {
    let refuse = |why: String| ConvertError::Layout { layout: "diffusers", why };
    let mut config = match owner.config(part.kind) {
        Some(config) => config.clone(),
        None => {
            let canonical = &part.canonical;
            let family = if owner.inspection.base == Base::Unknown { base } else { owner.inspection.base };
            let made = match part.kind {
                ComponentKind::Unet => unet::config(canonical, family),
                ComponentKind::Vae => vae::config(canonical, family),
                _ => clip::config(canonical, family, part.kind),
            };
            made.map_err(refuse)?
        }
    };
    let table = expected(part.kind, base, Some(&config), &part.canonical);
    let table = table.ok_or_else(|| refuse(format!("no config describes its {}", part.kind)))?;
    if let Some(difference) = compare(&table, &part.canonical).first() {
        return Err(refuse(format!("its {} is not what its config says: {}", part.kind, told(difference))));
    }
    if let (Some(name), Some(object)) = (torch_type(request, part), config.as_object_mut())
        && object.contains_key("torch_dtype")
    {
        object.insert("torch_dtype".to_owned(), json!(name));
    }
    Ok(config)
}

fn told(difference: &Difference) -> String {
    match difference {
        Difference::Missing { name, .. } => format!("`{name}` is missing"),
        Difference::Unexpected { name, .. } => format!("`{name}` is too much"),
        Difference::WrongShape { name, expected, found } => format!("`{name}` is {found:?}, not {expected:?}"),
    }
}

/// Torch's name of the type that the weights will have.
fn torch_type(request: &Request, part: &Part) -> Option<&'static str> {
    let precision = request.precision_of(Some(part.kind));
    let stored = part.canonical.tensors.first().map(|tensor| tensor.dtype)?;
    Some(match precision.of(stored)? {
        crate::Dtype::F16 => "float16",
        crate::Dtype::Bf16 => "bfloat16",
        crate::Dtype::F32 => "float32",
        _ => return None,
    })
}

/// One side of a tensor.
fn side(canonical: &Canonical, name: &str, axis: usize) -> Result<u64, String> {
    let found = canonical.get(name).and_then(|tensor| tensor.shape.get(axis)).copied();
    found.filter(|side| *side > 0).ok_or_else(|| format!("`{name}` is missing or has fewer dimensions"))
}

/// How many numbers follow a prefix in names.
fn count(canonical: &Canonical, prefix: &str) -> u64 {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<u64>().ok();
    let last = canonical.tensors.iter().filter_map(|tensor| number(&tensor.name)).max();
    last.map_or(0, |last| last.saturating_add(1))
}

/// Whether a name begins so.
fn has(canonical: &Canonical, prefix: &str) -> bool {
    canonical.tensors.iter().any(|tensor| tensor.name.starts_with(prefix))
}

/// The name of a file of a folder, without the folder.
fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
