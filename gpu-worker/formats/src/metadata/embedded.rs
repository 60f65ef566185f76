//! The metadata in a safetensors header: ModelSpec fields and what the kohya trainer writes.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::{Map, Value};

use super::extracted::{Gathering, Network, Training};
use crate::text::first;

/// Most tags, data sets and buckets that are kept.
const KEPT: usize = 64;

/// The trainer's settings that are kept, without their prefix.
const SETTINGS: &[&str] = &[
    "num_train_images",
    "num_reg_images",
    "num_batches_per_epoch",
    "num_epochs",
    "epoch",
    "steps",
    "max_train_steps",
    "batch_size_per_device",
    "total_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "unet_lr",
    "text_encoder_lr",
    "lr_scheduler",
    "lr_warmup_steps",
    "optimizer",
    "mixed_precision",
    "full_fp16",
    "clip_skip",
    "max_token_length",
    "seed",
    "noise_offset",
    "multires_noise_discount",
    "min_snr_gamma",
    "zero_terminal_snr",
    "sd_model_name",
    "sd_model_hash",
    "vae_name",
    "training_started_at",
    "training_finished_at",
    "session_id",
    "output_name",
];

/// `modelspec.*`.
pub(super) fn model_spec(found: &mut Gathering, metadata: &Map<String, Value>) {
    let own = below("modelspec.", metadata);
    if own.is_empty() {
        return;
    }
    let get = |name: &str| own.get(name).copied();
    let source = "modelspec";
    found.text("title", |out| &mut out.title, source, get("title"));
    found.text("description", |out| &mut out.description, source, get("description"));
    found.text("author", |out| &mut out.author, source, get("author"));
    found.text("license", |out| &mut out.license, source, get("license"));
    found.text("date", |out| &mut out.date, source, get("date"));
    found.text("usage_hint", |out| &mut out.usage_hint, source, get("usage_hint"));
    found.text("resolution", |out| &mut out.resolution, source, get("resolution"));
    found.text("merged_from", |out| &mut out.merged_from, source, get("merged_from"));
    found.words("tags", |out| &mut out.tags, source, commas(get("tags")));
    found.words("trigger_words", |out| &mut out.trigger_words, source, commas(get("trigger_phrase")));
    found.claim_base(source, get("architecture"));
    found.claim_prediction(source, get("prediction_type"));
}

/// The texts whose names begin so, by the rest of their names.
fn below<'m>(prefix: &str, metadata: &'m Map<String, Value>) -> BTreeMap<&'m str, &'m str> {
    metadata.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value.as_str()?))).collect()
}

/// The parts of a list with commas.
pub(super) fn commas(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',')
}

/// `ss_*`.
pub(super) fn trainer(found: &mut Gathering, metadata: &Map<String, Value>) {
    let own = below("ss_", metadata);
    if own.is_empty() {
        return;
    }
    let get = |name: &str| own.get(name).copied();
    let source = "ss";
    found.text("title", |out| &mut out.title, source, get("output_name"));
    found.text("description", |out| &mut out.description, source, get("training_comment"));
    found.text(
        "resolution",
        |out| &mut out.resolution,
        source,
        get("resolution").map(|text| text.trim_matches(['(', ')'])),
    );
    found.claim_base(source, get("base_model_version"));
    if get("v_parameterization") == Some("True") {
        found.claim_prediction(source, Some("v"));
    }
    network(found, &get);
    training(found, &get);
}

fn network<'m>(found: &mut Gathering, get: &dyn Fn(&str) -> Option<&'m str>) {
    let arguments = nested(found, "network_args", get("network_args"));
    let algo = arguments.as_ref().and_then(|args| args.get("algo")).and_then(Value::as_str);
    let module = get("network_module").filter(|module| *module != "None");
    let number = |name| get(name).and_then(|text| text.parse::<f64>().ok());
    let known = Network {
        dim: number("network_dim"),
        alpha: number("network_alpha"),
        algo: algo.map(str::to_owned).or_else(|| (module == Some("networks.lora")).then(|| "lora".to_owned())),
        module: module.map(str::to_owned),
    };
    if known != Network::default() {
        found.out.network = Some(known);
        found.note("network", "ss");
    }
}

fn training<'m>(found: &mut Gathering, get: &dyn Fn(&str) -> Option<&'m str>) {
    let mut training = Training::default();
    for name in SETTINGS {
        if let Some(text) = get(name).filter(|text| *text != "None") {
            training.settings.insert((*name).to_owned(), typed(text));
        }
    }
    if let Some(frequency) = nested(found, "tag_frequency", get("tag_frequency")) {
        training.top_tags = top_tags(&frequency);
    }
    for key in ["dataset_dirs", "reg_dataset_dirs", "datasets"] {
        if let Some(value) = nested(found, key, get(key)) {
            training.datasets.extend(entries(value));
        }
    }
    if let Some(info) = nested(found, "bucket_info", get("bucket_info")) {
        training.buckets = buckets(&info);
    }
    if training != Training::default() {
        found.out.training = Some(training);
        found.note("training", "ss");
    }
}

/// Numbers and booleans that the trainer wrote as text.
fn typed(text: &str) -> Value {
    match text {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Value::from(whole),
            (_, Ok(number)) if number.is_finite() => Value::from(number),
            _ => Value::String(first(text, 512)),
        },
    }
}

/// JSON inside a value. Broken JSON is named and ends nothing.
fn nested(found: &mut Gathering, key: &str, text: Option<&str>) -> Option<Value> {
    let text = text.filter(|text| !matches!(*text, "" | "None" | "null"))?;
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Null) => None,
        Ok(value @ (Value::Object(_) | Value::Array(_))) => Some(value),
        Ok(_) => {
            found.problem(format!("ss_{key}: neither an object nor a list"));
            None
        }
        Err(error) => {
            found.problem(format!("ss_{key}: not JSON: {error}"));
            None
        }
    }
}

/// Counts of one tag over all folders, the most frequent first.
fn top_tags(frequency: &Value) -> Vec<(String, u64)> {
    let mut counts: Vec<(&str, u64)> = Vec::new();
    for folder in frequency.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_object) {
        counts.extend(folder.iter().map(|(tag, count)| (tag.trim(), count.as_u64().unwrap_or_default())));
    }
    // nearly in order already: that of the folder
    counts.sort_by_key(|(tag, _)| *tag);
    counts.dedup_by(|(tag, count), (kept, total)| {
        let same = tag == kept;
        *total = if same { total.saturating_add(*count) } else { *total };
        same
    });
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts.into_iter().take(KEPT).map(|(tag, count)| (first(tag, 256), count)).collect()
}

fn entries(value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(map) => map.into_iter().take(KEPT).map(|(name, value)| (name, slim(value))).collect(),
        Value::Array(items) => {
            let numbered = items.into_iter().take(KEPT).enumerate();
            numbered.map(|(number, value)| (number.to_string(), slim(value))).collect()
        }
        _ => Vec::new(),
    }
}

/// A data set's own numbers; its nested tables (tags again) are left out.
fn slim(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_object()).take(KEPT).collect(),
        other => other,
    }
}

fn buckets(info: &Value) -> BTreeMap<String, u64> {
    let sizes = info.get("buckets").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let mut counts = BTreeMap::new();
    for bucket in sizes.take(4096) {
        let size = bucket.get("resolution").and_then(Value::as_array);
        let Some([Value::Number(width), Value::Number(height)]) = size.map(Vec::as_slice) else { continue };
        let count: &mut u64 = counts.entry(format!("{width}x{height}")).or_default();
        *count = count.saturating_add(bucket.get("count").and_then(Value::as_u64).unwrap_or_default());
    }
    counts
}
