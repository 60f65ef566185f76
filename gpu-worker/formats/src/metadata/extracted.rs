//! The typed answer, and the gathering of its fields with their sources and within bounds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::claim;
use crate::{sidecar::SidecarKind, text::first, vocab::Base};

/// Longest text that is kept of one field, in characters.
const TEXT_CHARS: usize = 16 << 10;
/// Longest word or tag, and most of them.
const WORD_CHARS: usize = 512;
const WORDS: usize = 256;
/// Most problems that are named.
const PROBLEMS: usize = 32;

/// What files say about a model. Absent fields were named by no source.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Extracted {
    /// [`super::RULES_VERSION`] of the rules that recognised the model.
    pub rules: u32,
    /// Title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Description; may hold markup, which readers must escape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Date, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// How to use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_hint: Option<String>,
    /// Resolution, as written (`1024x1024`, `512,512`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// What it was merged from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_from: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Words that trigger it.
    pub trigger_words: Vec<String>,
    /// The family that is claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_claim: Option<BaseClaim>,
    /// Whether the claim and the tensors name two different families.
    pub base_disagrees: bool,
    /// The prediction that is claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_claim: Option<String>,
    /// `turbo`, `lightning`, `hyper` or `lcm`, where a title or family claim says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distilled_claim: Option<&'static str>,
    /// Notes of people, as a side-car of ours keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// 0 to 5, as a side-car of ours keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rating: Option<u8>,
    /// Whatever else people said, as a side-car of ours keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Value>,
    /// Ids on the site that publishes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub civitai: Option<Civitai>,
    /// SHA-256 of the file as a side-car or the file itself states it, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_claim: Option<String>,
    /// The network that was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// How it was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// The files beside the model, with their identities.
    pub sidecars: Vec<SidecarFacts>,
    /// Field to source.
    pub sources: BTreeMap<&'static str, String>,
    /// What could not be read, by source.
    pub problems: Vec<String>,
}

/// A family as a source names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseClaim {
    /// As written.
    pub text: String,
    /// The family here, where the name is known.
    pub base: Option<Base>,
}

/// Ids on the site that publishes the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Civitai {
    /// Id of the model.
    pub model_id: Option<u64>,
    /// Id of the version.
    pub version_id: Option<u64>,
    /// Name of the version.
    pub version_name: Option<String>,
}

/// The network that was trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Network {
    /// Rank as configured.
    pub dim: Option<f64>,
    /// Alpha as configured.
    pub alpha: Option<f64>,
    /// `lora`, `locon`, `loha`, …
    pub algo: Option<String>,
    /// The module that was used.
    pub module: Option<String>,
}

/// How it was trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Training {
    /// Numbers and names of the run, by the trainer's own names without prefix.
    pub settings: BTreeMap<String, Value>,
    /// The most frequent tags of the data set, with their counts.
    pub top_tags: Vec<(String, u64)>,
    /// Folders or sets of pictures, with repeats and counts as the trainer wrote them.
    pub datasets: BTreeMap<String, Value>,
    /// Sizes of the buckets, with their counts.
    pub buckets: BTreeMap<String, u64>,
}

/// A side-car as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SidecarFacts {
    /// File name.
    pub name: String,
    /// What it is.
    pub kind: SidecarKind,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Inode.
    pub inode: u64,
}

/// Fields as they are found: the first source of a field stays.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    pub(super) out: Extracted,
}

impl Gathering {
    /// A text field: `field` chooses it, `name` is its name in the sources.
    pub(super) fn text(
        &mut self,
        name: &'static str,
        field: fn(&mut Extracted) -> &mut Option<String>,
        source: &str,
        value: Option<&str>,
    ) {
        let Some(value) = value.and_then(meaningful) else { return };
        let slot = field(&mut self.out);
        if slot.is_none() {
            *slot = Some(first(value, TEXT_CHARS));
            self.note(name, source);
        }
    }

    /// Words that are added to those of other sources.
    pub(super) fn words<'w>(
        &mut self,
        name: &'static str,
        field: fn(&mut Extracted) -> &mut Vec<String>,
        source: &str,
        words: impl Iterator<Item = &'w str>,
    ) {
        let kept = field(&mut self.out);
        let before = kept.len();
        for word in words.filter_map(meaningful) {
            let word = first(word, WORD_CHARS);
            if kept.len() < WORDS && !kept.contains(&word) {
                kept.push(word);
            }
        }
        if kept.len() > before {
            self.note(name, source);
        }
    }

    /// A family that a source names. A name that is known here replaces one that is not.
    pub(super) fn claim_base(&mut self, source: &str, text: Option<&str>) {
        let Some(text) = text.and_then(meaningful) else { return };
        let text = first(text, WORD_CHARS);
        let base = claim::base(&text);
        let better = self.out.base_claim.as_ref().is_none_or(|have| have.base.is_none() && base.is_some());
        if better {
            self.out.base_claim = Some(BaseClaim { text, base });
            self.out.sources.insert("base_claim", source.to_owned());
        }
    }

    /// A prediction that a source names.
    pub(super) fn claim_prediction(&mut self, source: &str, text: Option<&str>) {
        let told = text.and_then(claim::prediction);
        self.text("prediction_claim", |out| &mut out.prediction_claim, source, told);
    }

    /// Records where a field came from; words may come from several places.
    pub(super) fn note(&mut self, name: &'static str, source: &str) {
        let entry = self.out.sources.entry(name).or_default();
        if !entry.split(", ").any(|known| known == source) {
            let separator = if entry.is_empty() { "" } else { ", " };
            *entry = format!("{entry}{separator}{source}");
        }
    }

    /// Something that could not be read.
    pub(super) fn problem(&mut self, problem: String) {
        if self.out.problems.len() < PROBLEMS {
            self.out.problems.push(first(&problem, WORD_CHARS));
        }
    }

    pub(super) fn finish(mut self) -> Extracted {
        let claim = self.out.base_claim.as_ref().map(|claim| claim.text.as_str());
        let texts = [claim, self.out.title.as_deref()];
        let found = texts.into_iter().flatten().find_map(distilled);
        self.out.distilled_claim = found;
        self.out.rules = super::RULES_VERSION;
        self.out
    }
}

/// The text, unless it is one of the ways to say nothing.
fn meaningful(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && !matches!(text, "None" | "null" | "none" | "undefined")).then_some(text)
}

/// The way of distillation that a name tells.
fn distilled(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| ["turbo", "lightning", "hyper", "lcm"].into_iter().find(|known| *known == word))
}
