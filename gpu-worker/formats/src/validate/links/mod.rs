//! How the parts of a diffusers folder fit together: index against folders, configs against weights, encoders against
//! tokenizers and denoiser.

mod index;
mod tokenizers;

use std::path::Path;

use serde_json::Value;

use super::{Finding, Severity};
use crate::{
    inspection::{Component, Inspection},
    vocab::{ComponentKind, Format},
};

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
    (ComponentKind::Unet, "projection_class_embeddings_input_dim", ADDED, 1),
    (ComponentKind::Transformer, "in_channels", &["x_embedder.weight", "pos_embed.proj.weight"], 1),
    (ComponentKind::Transformer, "joint_attention_dim", &["context_embedder.weight"], 1),
    (ComponentKind::Transformer, "pooled_projection_dim", &["text_embedder.linear_1.weight"], 1),
    (ComponentKind::Vae, "latent_channels", &["decoder.conv_in.weight"], 1),
    (ComponentKind::Vae, "in_channels", &["encoder.conv_in.weight"], 1),
    (ComponentKind::Vae, "out_channels", &["decoder.conv_out.weight"], 0),
];
/// The same for each text encoder, of either kind.
const ENCODER_RULES: &[(&str, &[&str], usize)] = &[
    ("vocab_size", TOKEN_EMBEDDING, 0),
    ("hidden_size", TOKEN_EMBEDDING, 1),
    ("d_model", TOKEN_EMBEDDING, 1),
    ("max_position_embeddings", &["embeddings.position_embedding.weight"], 0),
    ("projection_dim", &["text_projection.weight"], 0),
];
const ADDED: &[&str] = &["add_embedding.linear_1.weight", "class_embedding.linear_1.weight"];
const TOKEN_EMBEDDING: &[&str] = &["embeddings.token_embedding.weight", "shared.weight", "embed_tokens.weight"];

/// Looks at a folder's links; other formats have none.
pub(super) fn check(path: &Path, inspection: &Inspection) -> Vec<Finding> {
    if inspection.format != Format::Diffusers {
        return Vec::new();
    }
    let folder = Links { path, inspection };
    let mut findings = index::check(path, inspection.metadata.get("configs").and_then(Value::as_object));
    findings.extend(RULES.iter().filter_map(|rule| folder.config_and_weights(rule)));
    let encoders = ENCODERS.iter().flat_map(|(kind, _)| {
        ENCODER_RULES.iter().map(|(key, endings, axis)| -> Rule { (*kind, key, endings, *axis) })
    });
    findings.extend(encoders.filter_map(|rule| folder.config_and_weights(&rule)));
    findings.extend(folder.conditioning());
    findings.extend(folder.pooled());
    findings.extend(folder.latents());
    findings.extend(ENCODERS.iter().flat_map(|(kind, tokenizer)| folder.tokenizer(*kind, tokenizer)));
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

    /// SDXL's UNet takes the projected text of the last encoder and six numbers.
    fn pooled(&self) -> Option<Finding> {
        let (name, wanted) = self.dimension(ComponentKind::Unet, &["add_embedding.linear_1.weight"], 1)?;
        let (_, pooled) = self.dimension(ComponentKind::TextEncoder2, &["text_projection.weight"], 0)?;
        let times = self.setting("unet", "addition_time_embed_dim")?;
        let of = |numbers: u64| pooled.checked_add(times.checked_mul(numbers)?);
        // the refiner takes five
        (of(6) != Some(wanted) && of(5) != Some(wanted)).then(|| {
            let message =
                format!("the UNet takes {wanted} added features, a pooled text of {pooled} leaves no whole sizes");
            Finding::new(Severity::Error, "conditioning_mismatch", message).of("unet").tensor(name).but(wanted, pooled)
        })
    }

    /// The denoiser works on the latents of this VAE. Transformers make patches of two by two of them.
    fn latents(&self) -> Option<Finding> {
        let (_, given) = self.dimension(ComponentKind::Vae, &["decoder.conv_in.weight"], 1)?;
        let unet = self.dimension(ComponentKind::Unet, &["conv_out.weight"], 0);
        let patches = || self.dimension(ComponentKind::Transformer, &["proj_out.weight"], 0);
        let made = match unet {
            Some((_, made)) => made,
            None => patches()?.1.checked_div(4)?,
        };
        (given != made).then(|| {
            let message = format!("the denoiser makes latents of {made} channels, the VAE decodes {given}");
            Finding::new(Severity::Error, "latent_mismatch", message).of("vae").but(made, given)
        })
    }

    /// An encoder needs its tokenizer, with ids that all have an embedding and no more of them than it has positions.
    fn tokenizer(&self, kind: ComponentKind, name: &str) -> Vec<Finding> {
        let Some(facts) = self.component(kind).and_then(|_| self.inspection.metadata.get("facts")) else {
            return Vec::new();
        };
        let there = facts.get("tokenizers").and_then(Value::as_array);
        if !there.is_some_and(|there| there.iter().any(|known| known == name)) {
            let message = format!("`{}` has no tokenizer `{name}`", kind.as_str());
            return vec![Finding::new(Severity::Warning, "missing_tokenizer", message).of(kind.as_str())];
        }
        let rows = self.dimension(kind, TOKEN_EMBEDDING, 0).map(|(_, rows)| rows);
        let positions = self.dimension(kind, &["embeddings.position_embedding.weight"], 0).map(|(_, rows)| rows);
        tokenizers::check(self.path, name, rows, positions)
    }
}
