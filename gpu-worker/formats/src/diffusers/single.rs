//! A folder that is one component: its config, its weights in one of their variants, perhaps a tokenizer.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value, json};

use super::{variants::Variants, weights};
use crate::{
    components::{split, variant},
    correction::Correction,
    detect::{Hints, Verdict, detect},
    error::{ErrorKind, FormatError},
    inspect::{CONFIG_LIMIT_BYTES, Extent, unknown},
    inspection::{Evidence, FileFacts, Inspection, TensorFacts},
    keys::Keys,
    probe::read_json,
    text::{storable, storable_json},
    tokenizer,
    vocab::{Format, ModelType},
};

/// The config of a component.
const CONFIG: &str = "config.json";
/// Longest metadata of the weights that is kept.
const METADATA_BYTES: usize = 256 << 10;

/// Inspects the folder; none when it has no `config.json`.
pub(super) fn inspect(path: &Path, correction: &Correction, extent: Extent) -> Result<Option<Inspection>, FormatError> {
    let (config, facts) = match read_json(&path.join(CONFIG), CONFIG, "component config", CONFIG_LIMIT_BYTES) {
        Ok(read) => read,
        Err(error) => return without_config(path, error),
    };
    let class = class(&config).unwrap_or_default().to_owned();
    let mut inspection = unknown(path, Format::Component, vec![facts]);
    inspection.evidence.push(Evidence::new("component.class", CONFIG, class.as_str()));
    let mut variants = Variants::new(extent);
    match read_weights(path, &mut inspection, correction.variant.as_deref(), &mut variants) {
        Ok((tensors, metadata)) => recognise(&mut inspection, tensors, (&metadata, &config), correction),
        Err(error) if error.kind() == ErrorKind::Unreadable => return Err(error),
        Err(error) => refuse(&mut inspection, &error),
    }
    let told = by_class(&class);
    if inspection.model_type == ModelType::Unknown && told != ModelType::Unknown {
        inspection.model_type = told;
        inspection.evidence.push(Evidence::new("component.type_by_class", CONFIG, told.as_str()));
    } else if told != ModelType::Unknown && told != inspection.model_type {
        inspection.evidence.push(Evidence::new("component.class_disagrees", CONFIG, told.as_str()));
    }
    inspection.metadata.insert("configs".to_owned(), storable_json(json!({ inspection.model_type.as_str(): config })));
    inspection.correct(correction);
    let component = inspection.components.first().map_or(inspection.model_type.as_str(), |part| part.kind.as_str());
    variants.name_component(component);
    variants.keep(&mut inspection);
    tokenizer_of(path, &mut inspection)?;
    super::made_from(path, &mut inspection);
    inspection.size_bytes = inspection.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
    Ok(Some(inspection))
}

fn without_config(path: &Path, error: FormatError) -> Result<Option<Inspection>, FormatError> {
    match error.kind() {
        ErrorKind::Missing => Ok(None),
        ErrorKind::Unreadable => Err(error),
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Unsafe | ErrorKind::UnsafeFormat => {
            let mut inspection = unknown(path, Format::Component, Vec::new());
            inspection.refuse(&error);
            Ok(Some(inspection))
        }
    }
}

/// Says why there are no weights.
fn refuse(inspection: &mut Inspection, error: &FormatError) {
    match error {
        FormatError::NoVariant { variant, has, .. } => {
            inspection.evidence.push(Evidence::new("diffusers.no_variant", variant, has.clone()));
            inspection.reason = Some(error.full_text());
        }
        _ => inspection.refuse(error),
    }
}

type Weights = (Vec<TensorFacts>, BTreeMap<String, String>);

/// Headers of the chosen variant, else of the best; which others are there is noted.
fn read_weights(
    path: &Path,
    inspection: &mut Inspection,
    chosen: Option<&str>,
    variants: &mut Variants,
) -> Result<Weights, FormatError> {
    let found = weights::find(path)?;
    let (choice, why) = match choose(path, &found, chosen) {
        Ok(choice) => choice,
        Err(error) => {
            variants.look("", (path, ""), &found, None);
            return Err(error);
        }
    };
    let read = weights::read(path, "", choice);
    variants.look("", (path, ""), &found, Some((choice, why, read.as_ref())));
    let set = read?;
    let others = found.choices.iter().filter(|other| *other != choice);
    let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
    inspection.evidence.push(Evidence::new("component.weights", &choice.name, "read"));
    if !others.is_empty() {
        inspection.evidence.push(Evidence::new("component.other_variants", CONFIG, others));
    }
    let offset = inspection.files.len();
    inspection.files.extend(set.files);
    let mut tensors = set.tensors;
    for tensor in &mut tensors {
        tensor.file = tensor.file.saturating_add(offset);
    }
    Ok((tensors, set.metadata))
}

/// What to read. A chosen variant has no stand-in here: the component is all that there is.
fn choose<'f>(
    path: &Path,
    found: &'f weights::Weights,
    chosen: Option<&str>,
) -> Result<(&'f weights::Choice, weights::Why), FormatError> {
    match chosen.filter(|chosen| !found.variants().contains(chosen)) {
        Some(chosen) => {
            let has = found.variants().into_iter().map(str::to_owned).collect();
            Err(FormatError::NoVariant { path: path.to_owned(), variant: chosen.to_owned(), has })
        }
        None => found.choose(chosen),
    }
}

fn recognise(
    inspection: &mut Inspection,
    tensors: Vec<TensorFacts>,
    (metadata, config): (&BTreeMap<String, String>, &Value),
    correction: &Correction,
) {
    let hints = Hints { metadata: Some(metadata), config: Some(config) };
    let verdict: Verdict = detect(&Keys::new(&tensors), &hints);
    let count = tensors.len();
    let (model_type, base) = correction.of(verdict.model_type, verdict.base);
    let split = split(model_type, base, tensors);
    let mut facts = verdict.facts;
    facts.insert("tensors".to_owned(), json!(count));
    facts.insert("ignored_tensors".to_owned(), json!(split.ignored_tensors));
    facts.insert("ignored_bytes".to_owned(), json!(split.ignored_bytes));
    inspection.metadata = kept(metadata);
    inspection.metadata.insert("facts".to_owned(), storable_json(Value::Object(facts)));
    (inspection.model_type, inspection.base) = (verdict.model_type, verdict.base);
    inspection.prediction = verdict.prediction;
    inspection.reason = verdict.reason;
    inspection.evidence.extend(verdict.evidence);
    inspection.variant = variant(&split.components);
    inspection.components = split.components;
}

fn kept(metadata: &BTreeMap<String, String>) -> Map<String, Value> {
    let mut total = 0usize;
    let within = |(key, value): &(&String, &String)| {
        total = total.saturating_add(key.len()).saturating_add(value.len());
        total <= METADATA_BYTES
    };
    let entries = metadata.iter().take_while(within);
    entries.map(|(key, value)| (storable(key), Value::String(storable(value)))).collect()
}

/// A text encoder's folder often holds its tokenizer too.
fn tokenizer_of(path: &Path, inspection: &mut Inspection) -> Result<(), FormatError> {
    let names = weights::names(path)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if !tokenizer::is_tokenizer(&names) {
        return Ok(());
    }
    let mut found = tokenizer::read(path, "")?;
    let files: Vec<FileFacts> = std::mem::take(&mut found.files);
    inspection.files.extend(files);
    let value = serde_json::to_value(&found).unwrap_or_default();
    inspection.metadata.insert("tokenizer".to_owned(), storable_json(value));
    Ok(())
}

/// The class that a config names: of diffusers, or the first architecture of transformers.
fn class(config: &Value) -> Option<&str> {
    let architectures = config.get("architectures").and_then(Value::as_array);
    let first = architectures.and_then(|list| list.first());
    config.get("_class_name").or(first).and_then(Value::as_str)
}

/// The type that a class name means.
fn by_class(class: &str) -> ModelType {
    match class {
        "UNet2DConditionModel" | "UNet2DModel" | "UNetMotionModel" => ModelType::Unet,
        "AutoencoderKL" => ModelType::Vae,
        "AutoencoderTiny" => ModelType::Taesd,
        "MotionAdapter" => ModelType::MotionModule,
        "T2IAdapter" | "MultiAdapter" => ModelType::T2iAdapter,
        _ if class.contains("ControlNet") => ModelType::ControlNet,
        _ if class.ends_with("Transformer2DModel") => ModelType::Transformer,
        _ if class.starts_with("CLIPVisionModel") => ModelType::ImageEncoder,
        _ if class.starts_with("CLIPTextModel") || class.starts_with("CLIPModel") || class == "T5EncoderModel" => {
            ModelType::TextEncoder
        }
        _ => ModelType::Unknown,
    }
}
