//! Reading the component sub-folders of a pipeline: configs, weights, tokenizers.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value};

use super::{index, variants::Variants, weights};
use crate::{
    components::component,
    error::{ErrorKind, FormatError},
    inspect::{CONFIG_LIMIT_BYTES, Extent},
    inspection::{Component, Evidence, FileFacts},
    onnx::{self, GRAPH_FILE as GRAPH},
    probe::{read_json, stat},
    text::shown,
    vocab::ComponentKind,
};

/// Most files of a tokenizer folder that count as the model's.
const TOKENIZER_FILES: usize = 64;

/// What has been read of a pipeline folder.
#[derive(Debug)]
pub(super) struct Folder<'p> {
    path: &'p Path,
    /// The variant that somebody chose.
    chosen: Option<&'p str>,
    /// It is nowhere in the folder.
    lacks_chosen: bool,
    /// Sub-folders the index names.
    named: Vec<String>,
    pub(super) variants: Variants,
    pub(super) files: Vec<FileFacts>,
    pub(super) components: Vec<Component>,
    pub(super) configs: Map<String, Value>,
    /// What the ONNX graphs say, by component.
    pub(super) graphs: Map<String, Value>,
    pub(super) facts: Map<String, Value>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) tokenizers: Vec<String>,
    /// Named, but of no use to a loader (schedulers, safety checkers, …).
    pub(super) not_loaded: Vec<String>,
    /// Named, but not readable here.
    pub(super) missing: Vec<String>,
    /// Why they are not.
    pub(super) problems: Vec<String>,
}

impl<'p> Folder<'p> {
    pub(super) fn new(path: &'p Path, index: FileFacts, chosen: Option<&'p str>, extent: Extent) -> Self {
        Self {
            path,
            chosen,
            lacks_chosen: false,
            named: Vec::new(),
            variants: Variants::new(extent),
            files: vec![index],
            components: Vec::new(),
            configs: Map::new(),
            graphs: Map::new(),
            facts: Map::new(),
            evidence: Vec::new(),
            tokenizers: Vec::new(),
            not_loaded: Vec::new(),
            missing: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Whether the index names this sub-folder.
    pub(super) fn names(&self, name: &str) -> bool {
        self.named.iter().any(|named| named == name)
    }

    /// Reads everything the index names: entries of the form `[library, class]`.
    pub(super) fn read(&mut self, index: &Value) -> Result<(), FormatError> {
        let entries = index.as_object().into_iter().flatten();
        for (name, value) in entries {
            let is_component =
                value.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(Value::is_string));
            if !is_component {
                continue;
            }
            if !index::is_plain_name(name) {
                self.problems.push(format!("the component name `{}` is not a plain folder name", shown(name)));
                continue;
            }
            self.named.push(name.clone());
        }
        self.look_for_chosen();
        for name in self.named.clone() {
            self.part(&name)?;
        }
        Ok(())
    }

    /// A chosen variant that no component has is a mistake, or its files are gone: other weights in its place are not what was asked for.
    fn look_for_chosen(&mut self) {
        let Some(chosen) = self.chosen else { return };
        let components = self.named.iter().filter(|name| kind(name).is_some());
        let found: Vec<_> = components.filter_map(|name| weights::find(&self.path.join(name)).ok()).collect();
        let has: BTreeSet<&str> = found.iter().flat_map(weights::Weights::variants).collect();
        if has.contains(chosen) {
            return;
        }
        let has: Vec<String> = has.into_iter().map(str::to_owned).collect();
        self.evidence.push(Evidence::new("diffusers.no_variant", chosen, has.clone()));
        let error = FormatError::NoVariant { path: self.path.to_owned(), variant: chosen.to_owned(), has };
        self.problems.push(error.full_text());
        self.lacks_chosen = true;
    }

    fn part(&mut self, name: &str) -> Result<(), FormatError> {
        if name.starts_with("tokenizer") {
            return self.tokenizer(name);
        }
        if name == "scheduler" {
            self.not_loaded.push(name.to_owned());
            return self.config(name, "scheduler_config.json");
        }
        let Some(kind) = kind(name) else {
            self.not_loaded.push(name.to_owned());
            return Ok(());
        };
        if !self.path.join(name).join(GRAPH).is_file() || self.path.join(name).join("config.json").is_file() {
            self.config(name, "config.json")?;
        }
        self.weights(name, kind)
    }

    /// Keeps a config; a missing or broken one is a problem of the folder, not of the reader.
    fn config(&mut self, name: &str, file: &str) -> Result<(), FormatError> {
        let rel_path = format!("{name}/{file}");
        match read_json(&self.path.join(&rel_path), &rel_path, "component config", CONFIG_LIMIT_BYTES) {
            Ok((config, facts)) => {
                self.configs.insert(name.to_owned(), config);
                self.files.push(facts);
                Ok(())
            }
            Err(error) => self.problem(name, error),
        }
    }

    fn weights(&mut self, name: &str, kind: ComponentKind) -> Result<(), FormatError> {
        let (folder, below) = (self.path.join(name), format!("{name}/"));
        let (found, graph) = (weights::find(&folder), folder.join(GRAPH));
        let has_weights = found.as_ref().is_ok_and(|found| !found.choices.is_empty());
        if !self.lacks_chosen && !has_weights && graph.is_file() {
            return self.graph(name, kind, &graph);
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.lacking(name, error),
        };
        if self.lacks_chosen {
            self.missing.push(name.to_owned());
            self.variants.look(name, (&folder, &below), &found, None);
            return Ok(());
        }
        let choice = match found.choose(self.chosen) {
            Ok(choice) => choice,
            Err(error) => {
                self.variants.look(name, (&folder, &below), &found, None);
                return self.lacking(name, error);
            }
        };
        let read = weights::read(&folder, &below, choice.0);
        self.variants.look(name, (&folder, &below), &found, Some((choice.0, choice.1, read.as_ref())));
        let set = match read {
            Ok(set) => set,
            Err(error) => return self.lacking(name, error),
        };
        self.note_choice(name, choice.0, &found.choices);
        let offset = self.files.len();
        let mut tensors = set.tensors;
        for tensor in &mut tensors {
            tensor.file = tensor.file.saturating_add(offset);
        }
        self.files.extend(set.files);
        self.components.push(component(kind, tensors));
        Ok(())
    }

    /// A component that is an ONNX graph; its weights are those that are ranges of bytes.
    fn graph(&mut self, name: &str, kind: ComponentKind, path: &Path) -> Result<(), FormatError> {
        let onnx = match onnx::read(path, &format!("{name}/{GRAPH}"), &format!("{name}/")) {
            Ok(onnx) => onnx,
            Err(error) => return self.lacking(name, error),
        };
        self.evidence.push(Evidence::new("diffusers.onnx", format!("{name}/{GRAPH}"), onnx.graph.nodes));
        let graph = serde_json::to_value(&onnx.graph).unwrap_or_default();
        self.graphs.insert(name.to_owned(), graph);
        let offset = self.files.len();
        let mut tensors = onnx.tensors;
        for tensor in &mut tensors {
            tensor.file = tensor.file.saturating_add(offset);
        }
        self.files.extend(onnx.files);
        self.components.push(component(kind, tensors));
        Ok(())
    }

    fn note_choice(&mut self, name: &str, chosen: &weights::Choice, choices: &[weights::Choice]) {
        self.evidence.push(Evidence::new("diffusers.weights", format!("{name}/{}", chosen.name), "read"));
        let others = choices.iter().filter(|choice| *choice != chosen);
        let others: Vec<&str> = others.map(|choice| choice.name.as_str()).collect();
        if !others.is_empty() {
            let value = Value::from(others);
            self.evidence.push(Evidence::new("diffusers.other_variants", name, value));
        }
    }

    fn tokenizer(&mut self, name: &str) -> Result<(), FormatError> {
        let folder = self.path.join(name);
        let names = match weights::names(&folder) {
            Ok(names) => names,
            Err(error) => return self.lacking(name, error),
        };
        for file in names.iter().filter(|file| index::is_plain_name(file)).take(TOKENIZER_FILES) {
            let path = folder.join(file);
            if path.is_file() {
                self.files.push(stat(&path, &format!("{name}/{file}"))?);
            }
        }
        self.tokenizers.push(name.to_owned());
        Ok(())
    }

    /// A part that is named and cannot be used.
    fn lacking(&mut self, name: &str, error: FormatError) -> Result<(), FormatError> {
        self.missing.push(name.to_owned());
        self.problem(name, error)
    }

    /// Records a problem with one part; only what cannot be read at all now ends the inspection.
    fn problem(&mut self, name: &str, error: FormatError) -> Result<(), FormatError> {
        if error.kind() == ErrorKind::Unreadable {
            return Err(error);
        }
        self.evidence.push(Evidence::new("diffusers.problem", name, error.code()));
        self.problems.push(format!("{name}: {}", error.full_text()));
        Ok(())
    }
}

/// The component a sub-folder is.
fn kind(name: &str) -> Option<ComponentKind> {
    Some(match name {
        "unet" => ComponentKind::Unet,
        "transformer" => ComponentKind::Transformer,
        "vae" => ComponentKind::Vae,
        "vae_encoder" => ComponentKind::VaeEncoder,
        "vae_decoder" => ComponentKind::VaeDecoder,
        "text_encoder" => ComponentKind::TextEncoder,
        "text_encoder_2" => ComponentKind::TextEncoder2,
        "text_encoder_3" => ComponentKind::TextEncoder3,
        "image_encoder" => ComponentKind::ImageEncoder,
        "controlnet" => ComponentKind::ControlNet,
        "motion_adapter" => ComponentKind::MotionModule,
        _ => return None,
    })
}
