//! How the parts of a diffusers folder fit together: configs against weights, encoders against tokenizers and denoiser.

use std::path::Path;

use serde_json::Value;

use super::{Finding, Severity};
use crate::{
    inspection::{Component, Inspection},
    probe::read_json,
    vocab::{Base, ComponentKind, Format},
};

/// Largest vocabulary file that is read.
const VOCABULARY_LIMIT_BYTES: u64 = 16 << 20;
/// Text encoders with their tokenizers.
const ENCODERS: [(ComponentKind, &str); 3] = [
    (ComponentKind::TextEncoder, "tokenizer"),
    (ComponentKind::TextEncoder2, "tokenizer_2"),
    (ComponentKind::TextEncoder3, "tokenizer_3"),
];

/// A number of a config that a tensor's dimension must repeat: component, config key, ends of the tensor's name, axis.
type Rule = (ComponentKind, &'static str, &'static [&'static str], usize);
const RULES: &[Rule] = &[
    (ComponentKind::Unet, "in_channels", &["conv_in.weight"], 1),
    (ComponentKind::Unet, "out_channels", &["conv_out.weight"], 0),
    (ComponentKind::Vae, "latent_channels", &["decoder.conv_in.weight"], 1),
    (ComponentKind::Vae, "in_channels", &["encoder.conv_in.weight"], 1),
    (ComponentKind::Vae, "out_channels", &["decoder.conv_out.weight"], 0),
    (ComponentKind::TextEncoder, "vocab_size", TOKEN_EMBEDDING, 0),
    (ComponentKind::TextEncoder, "hidden_size", TOKEN_EMBEDDING, 1),
    (ComponentKind::TextEncoder2, "vocab_size", TOKEN_EMBEDDING, 0),
    (ComponentKind::TextEncoder2, "hidden_size", TOKEN_EMBEDDING, 1),
];
const TOKEN_EMBEDDING: &[&str] = &["embeddings.token_embedding.weight"];

/// Looks at a folder's links; other formats have none.
pub(super) fn check(path: &Path, inspection: &Inspection) -> Vec<Finding> {
    if inspection.format != Format::Diffusers {
        return Vec::new();
    }
    let folder = Links { path, inspection };
    let mut findings: Vec<Finding> = RULES.iter().filter_map(|rule| folder.config_and_weights(rule)).collect();
    findings.extend(folder.conditioning());
    findings.extend(folder.latents());
    findings.extend(ENCODERS.iter().filter_map(|(kind, tokenizer)| folder.tokenizer(*kind, tokenizer)));
    findings
}

struct Links<'i> {
    path: &'i Path,
    inspection: &'i Inspection,
}

impl Links<'_> {
    fn component(&self, kind: ComponentKind) -> Option<&Component> {
        self.inspection.components.iter().find(|component| component.kind == kind)
    }

    fn setting(&self, part: &str, key: &str) -> Option<u64> {
        self.inspection.metadata.get("configs")?.get(part)?.get(key)?.as_u64()
    }

    /// A dimension of the tensor with one of these endings.
    fn dimension(&self, kind: ComponentKind, endings: &[&str], axis: usize) -> Option<(&str, u64)> {
        let tensors = &self.component(kind)?.tensors;
        let is_it = |name: &str, ending: &str| name == ending || name.ends_with(&format!(".{ending}"));
        let tensor = tensors.iter().find(|tensor| endings.iter().any(|ending| is_it(&tensor.name, ending)))?;
        Some((&tensor.name, *tensor.shape.get(axis)?))
    }

    fn config_and_weights(&self, (kind, key, endings, axis): &Rule) -> Option<Finding> {
        let expected = self.setting(kind.as_str(), key)?;
        let (name, found) = self.dimension(*kind, endings, *axis)?;
        let message = format!("`{key}` of the config is {expected}, dimension {axis} of the tensor is {found}");
        (expected != found).then(|| {
            Finding::new(Severity::Error, "config_mismatch", message)
                .of(kind.as_str())
                .tensor(name)
                .but(expected, found)
        })
    }

    /// The width that the denoiser attends to is that of its encoders.
    fn conditioning(&self) -> Option<Finding> {
        let wanted = self.setting("unet", "cross_attention_dim")?;
        let width = |kind| self.dimension(kind, TOKEN_EMBEDDING, 1).map(|(_, width)| width);
        let widths = [width(ComponentKind::TextEncoder), width(ComponentKind::TextEncoder2)];
        let given: u64 = widths.iter().flatten().sum();
        let expected =
            self.inspection.components.iter().filter(|part| ENCODERS.iter().any(|(kind, _)| *kind == part.kind));
        let known = given > 0 && widths.iter().flatten().count() == expected.count();
        (known && wanted != given).then(|| {
            let message = format!("the UNet attends to {wanted} features, the text encoders give {given}");
            Finding::new(Severity::Error, "conditioning_mismatch", message).of("unet").but(wanted, given)
        })
    }

    /// The denoiser works on the latents of this VAE.
    fn latents(&self) -> Option<Finding> {
        let (_, given) = self.dimension(ComponentKind::Vae, &["decoder.conv_in.weight"], 1)?;
        let (_, made) = self.dimension(ComponentKind::Unet, &["conv_out.weight"], 0)?;
        let applies = self.inspection.base != Base::Flux && given != made;
        applies.then(|| {
            let message = format!("the UNet makes latents of {made} channels, the VAE decodes {given}");
            Finding::new(Severity::Error, "latent_mismatch", message).of("vae").but(made, given)
        })
    }

    /// An encoder needs its tokenizer, with ids that all have an embedding.
    fn tokenizer(&self, kind: ComponentKind, name: &str) -> Option<Finding> {
        self.component(kind)?;
        let facts = self.inspection.metadata.get("facts")?;
        let there = facts.get("tokenizers").and_then(Value::as_array)?.iter().any(|known| known == name);
        if !there {
            let message = format!("`{}` has no tokenizer `{name}`", kind.as_str());
            return Some(Finding::new(Severity::Warning, "missing_tokenizer", message).of(kind.as_str()));
        }
        let (_, rows) = self.dimension(kind, TOKEN_EMBEDDING, 0)?;
        let rel_path = format!("{name}/vocab.json");
        let path = self.path.join(&rel_path);
        if !path.is_file() {
            return None;
        }
        match read_json(&path, &rel_path, "vocabulary", VOCABULARY_LIMIT_BYTES) {
            Ok((vocabulary, _)) => too_many_ids(&vocabulary, rows).map(|finding| finding.of(name)),
            Err(error) => Some(Finding::new(Severity::Error, "corrupt_tokenizer", error.full_text()).of(name)),
        }
    }
}

/// Ids beyond the embedding's rows cannot be encoded.
fn too_many_ids(vocabulary: &Value, rows: u64) -> Option<Finding> {
    let Some(entries) = vocabulary.as_object() else {
        return Some(Finding::new(
            Severity::Error,
            "corrupt_tokenizer",
            "the vocabulary is not a map of tokens to ids",
        ));
    };
    let largest = entries.values().filter_map(Value::as_u64).max()?;
    (largest >= rows).then(|| {
        let message = format!("the vocabulary has id {largest}, the text encoder embeds {rows} ids");
        Finding::new(Severity::Error, "vocabulary_mismatch", message).but(format!("ids below {rows}"), largest)
    })
}
