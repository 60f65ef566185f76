//! What `model_index.json` says beside the folders that are there and the classes of their configs.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    diffusers::{INDEX_NAME, index::is_plain_name},
    inspect::CONFIG_LIMIT_BYTES,
    probe::read_json,
    text::shown,
    validate::{Finding, Severity},
};

/// Looks at every part that the index names, and at every folder that it does not name.
pub(super) fn check(path: &Path, configs: Option<&Map<String, Value>>) -> Vec<Finding> {
    // an index that cannot be read is a finding of the inspection
    let Ok((index, _)) = read_json(&path.join(INDEX_NAME), INDEX_NAME, "pipeline index", CONFIG_LIMIT_BYTES) else {
        return Vec::new();
    };
    let named = named(&index);
    let mut findings: Vec<Finding> = named.iter().filter_map(|(name, class)| absent(path, name, class)).collect();
    findings.extend(named.iter().filter_map(|(name, class)| another(configs?.get(*name)?, name, class)));
    findings.extend(unnamed(path, &index));
    findings
}

/// Parts with their classes; those that are switched off have none.
fn named(index: &Value) -> Vec<(&str, &str)> {
    let entries = index.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, value)| {
            let pair = value.as_array().filter(|pair| pair.len() == 2)?;
            Some((name.as_str(), pair.last()?.as_str()?)).filter(|(name, _)| is_plain_name(name))
        })
        .collect()
}

/// Parts without weights (schedulers, processors) are folders too.
fn absent(path: &Path, name: &str, class: &str) -> Option<Finding> {
    (!path.join(name).is_dir()).then(|| {
        let message =
            format!("the index names `{}` of class {}, and there is no such folder", shown(name), shown(class));
        Finding::new(Severity::Error, "missing_folder", message).of(name).but(class, "nothing")
    })
}

/// A config that was made for another class than the one that will read it.
fn another(config: &Value, name: &str, class: &str) -> Option<Finding> {
    let architectures = config.get("architectures").and_then(Value::as_array);
    let first = architectures.and_then(|list| list.first());
    let found = config.get("_class_name").or(first)?.as_str()?;
    // one family of classes reads the configs of the other
    let same = found == class || found.strip_prefix("Flax") == Some(class) || class.strip_prefix("Flax") == Some(found);
    // schedulers read each other's configs, which is how they are exchanged
    (!same && name != "scheduler").then(|| {
        let message =
            format!("the index reads `{}` as {}, its config is one of {}", shown(name), shown(class), shown(found));
        Finding::new(Severity::Warning, "class_mismatch", message).of(name).but(class, found)
    })
}

/// Folders with a config that nobody will read.
fn unnamed(path: &Path, index: &Value) -> Vec<Finding> {
    let names = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| path.join(name).join("config.json").is_file() && index.get(name).is_none()).collect();
    names.sort();
    let finding = |name: &String| {
        let message = format!("the folder `{}` has a config and is not named by the index", shown(name));
        Finding::new(Severity::Info, "unnamed_folder", message).of(name)
    };
    names.iter().map(finding).collect()
}
