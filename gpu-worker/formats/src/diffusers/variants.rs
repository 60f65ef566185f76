//! The variants of a folder's weights: which files each component has of them, whether they are whole, and what is read.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::Value;

use super::{
    index::ShardSet,
    weights::{self, Choice, DEFAULT, Weights, Why},
};
use crate::{
    components::dtype_names,
    error::{ErrorKind, FormatError},
    inspect::Extent,
    inspection::{Evidence, Inspection},
    text::storable_json,
    vocab::Format,
};

/// Where an inspection keeps them in its metadata.
pub(crate) const KEY: &str = "variants";
/// Most weight files of one component whose headers are looked at beside those that are read.
const MOST: usize = 64;
/// Most shards of these.
const SHARDS: usize = 512;
/// What says in the evidence that weights which are not read could not be looked at just now.
const NOT_NOW: &str = "diffusers.variant_unreadable";
/// What names weights of a variant that has the name of the plain ones.
const UNNAMED: &str = "diffusers.variant_default";

/// One component's weights of a variant.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    /// The component.
    pub(super) component: String,
    /// Paths below the model's own; of shards the index first.
    files: Vec<String>,
    /// How they are stored.
    format: &'static str,
    /// Dtypes of the weights, as far as headers could be read.
    dtypes: Vec<&'static str>,
    /// Bytes on disk of the files that are there.
    size_bytes: u64,
    /// Whether every file is there and its header can be read.
    complete: bool,
    /// What is wrong with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Why they are the ones that are read; none when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Why>,
}

/// A variant.
#[derive(Debug, Serialize)]
struct Variant {
    name: String,
    /// Whether it has whole weights of every component that has any.
    complete: bool,
    parts: Vec<Part>,
}

/// The parts of all variants of a folder.
#[derive(Debug)]
pub(super) struct Variants {
    extent: Extent,
    parts: BTreeMap<String, Vec<Part>>,
    evidence: Vec<Evidence>,
}

/// What was read of a component, or why it could not be.
pub(super) type Read<'r> = (&'r Choice, Why, Result<&'r ShardSet, &'r FormatError>);

impl Variants {
    pub(super) fn new(extent: Extent) -> Self {
        Self { extent, parts: BTreeMap::new(), evidence: Vec::new() }
    }

    /// Looks at all weights of a component in `folder`. Of those that are read, `read` knows the headers.
    pub(super) fn look(
        &mut self,
        component: &str,
        (folder, below): (&Path, &str),
        found: &Weights,
        read: Option<Read<'_>>,
    ) {
        if self.extent == Extent::Read {
            return;
        }
        let (mut left, mut passed_over) = (SHARDS, 0_usize);
        for (number, choice) in found.choices.iter().enumerate() {
            let mine = read.filter(|(chosen, ..)| *chosen == choice);
            let part = match mine {
                Some((_, _, Ok(set))) => whole(component, set),
                Some((_, _, Err(error))) => broken(component, (folder, below), found, choice, error.full_text()),
                None if number < MOST => match weights::read_within(folder, below, choice, &mut left) {
                    Ok(Some(set)) => whole(component, &set),
                    Ok(None) => {
                        passed_over += 1;
                        continue;
                    }
                    Err(error) => {
                        if error.kind() == ErrorKind::Unreadable {
                            self.evidence.push(Evidence::new(NOT_NOW, component, choice.name.as_str()));
                        }
                        broken(component, (folder, below), found, choice, error.full_text())
                    }
                },
                None => {
                    passed_over += 1;
                    continue;
                }
            };
            let part = Part { read: mine.map(|(_, why, _)| why), ..part };
            self.parts.entry(choice.variant().to_owned()).or_default().push(part);
        }
        if passed_over > 0 {
            self.evidence.push(Evidence::new("diffusers.more_variants", component, passed_over));
        }
        if !found.unnamed.is_empty() {
            self.evidence.push(Evidence::new(UNNAMED, component, found.unnamed.clone()));
        }
        self.loose_shards(component, (folder, below), found);
    }

    /// Shards of which no index says how they go together.
    fn loose_shards(&mut self, component: &str, (folder, below): (&Path, &str), found: &Weights) {
        let mut sets: BTreeMap<(&str, bool), Vec<String>> = BTreeMap::new();
        for shard in &found.shards {
            let is_of = |choice: &&Choice| choice.sharded && choice.pickled == shard.pickled;
            if !found.choices.iter().filter(is_of).any(|index| index.variant() == shard.variant()) {
                sets.entry((shard.variant(), shard.pickled)).or_default().push(shard.name.clone());
            }
        }
        for ((variant, pickled), names) in sets {
            let part = incomplete(component, (folder, below), (names, pickled), "shards without an index".to_owned());
            self.parts.entry(variant.to_owned()).or_default().push(part);
        }
    }

    /// Says which component parts are of, where that is known only after they were read.
    pub(super) fn name_component(&mut self, component: &str) {
        self.parts.values_mut().flatten().for_each(|part| component.clone_into(&mut part.component));
    }

    /// Puts them into the metadata: what has no variant first, then fp16, then by name.
    pub(super) fn keep(self, inspection: &mut Inspection) {
        if self.extent == Extent::Read {
            return;
        }
        let components: Vec<String> = self.parts.values().flatten().map(|part| part.component.clone()).collect();
        let variant = |(name, parts): (String, Vec<Part>)| {
            let has = |component: &String| parts.iter().any(|part| part.complete && part.component == *component);
            Variant { complete: components.iter().all(has), name, parts }
        };
        let mut variants: Vec<Variant> = self.parts.into_iter().map(variant).collect();
        variants.sort_by_key(|variant| match variant.name.as_str() {
            DEFAULT => 0,
            "fp16" => 1,
            _ => 2,
        });
        let value = serde_json::to_value(variants).unwrap_or_default();
        inspection.evidence.extend(self.evidence);
        inspection.metadata.insert(KEY.to_owned(), storable_json(value));
    }
}

/// Whether weights that are not read could not be looked at for a reason that may pass without a file having changed.
pub(crate) fn is_passing<C>(inspection: &Inspection<C>) -> bool {
    inspection.evidence.iter().any(|evidence| evidence.rule == NOT_NOW)
}

/// Weights whose headers could be read.
fn whole(component: &str, set: &ShardSet) -> Part {
    Part {
        component: component.to_owned(),
        files: set.files.iter().map(|file| file.rel_path.clone()).collect(),
        format: set.format.as_str(),
        dtypes: dtype_names(&set.tensors),
        size_bytes: set.files.iter().map(|file| file.size).fold(0, u64::saturating_add),
        complete: true,
        problem: None,
        read: None,
    }
}

/// Weights that could not be read. Of an index, the shards that are there by their names.
fn broken(component: &str, place: (&Path, &str), found: &Weights, choice: &Choice, problem: String) -> Part {
    let is_of = |shard: &&weights::Shard| {
        choice.sharded && shard.pickled == choice.pickled && shard.variant() == choice.variant()
    };
    let shards = found.shards.iter().filter(is_of).map(|shard| shard.name.clone());
    let names = std::iter::once(choice.name.clone()).chain(shards).collect();
    incomplete(component, place, (names, choice.pickled), problem)
}

fn incomplete(
    component: &str,
    (folder, below): (&Path, &str),
    (names, pickled): (Vec<String>, bool),
    problem: String,
) -> Part {
    let size = |name: &String| std::fs::metadata(folder.join(name)).map_or(0, |meta| meta.len());
    Part {
        component: component.to_owned(),
        size_bytes: names.iter().map(size).fold(0, u64::saturating_add),
        files: names.into_iter().map(|name| format!("{below}{name}")).collect(),
        format: if pickled { Format::Pickle.as_str() } else { Format::Safetensors.as_str() },
        dtypes: Vec::new(),
        complete: false,
        problem: Some(problem),
        read: None,
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

/// What is wrong with weights that are not read: component, variant, files and the problem.
pub(crate) fn problems(inspection: &Inspection) -> Vec<(&str, &str, Vec<&str>, &str)> {
    let variants = inspection.metadata.get(KEY).and_then(Value::as_array).into_iter().flatten();
    let mut found = Vec::new();
    for variant in variants {
        let parts = variant.get("parts").and_then(Value::as_array).into_iter().flatten();
        for part in parts.filter(|part| part.get("read").is_none()) {
            let files = part.get("files").and_then(Value::as_array).into_iter().flatten();
            let (component, problem) = (text(part, "component"), text(part, "problem"));
            if let (Some(name), Some(component), Some(problem)) = (text(variant, "name"), component, problem) {
                found.push((component, name, files.filter_map(Value::as_str).collect(), problem));
            }
        }
    }
    found
}
