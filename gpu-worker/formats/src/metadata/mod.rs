//! What files say about a model, gathered into one typed answer with the source of every field.
//!
//! Claims are kept apart from what the tensors show: where the two disagree, that is a stated fact.

pub(crate) mod claim;
mod configs;
mod embedded;
mod extracted;
mod sidecars;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use claim::base as claimed_base;
pub use extracted::{BaseClaim, Civitai, Extracted, Network, SidecarFacts, Training};

use crate::{
    inspection::{Evidence, Inspection},
    sidecar::{self, Sidecar},
    text::storable_json,
    vocab::{Base, ModelType},
};
use extracted::Gathering;

/// The key in [`Inspection::metadata`] below which the answer is put.
pub const EXTRACTED_KEY: &str = "extracted";

/// Version of everything that an inspection answers: raised whenever the same file may get another answer, so that
/// a scan reads again what older rules recognised.
pub const RULES_VERSION: u32 = 5;

/// Gathers what the model's own metadata, its configs and its side-cars say. The first source that
/// names a field wins: the file itself, then side-cars in the order of [`crate::sidecar::SidecarKind`].
#[must_use]
pub fn extract<C>(inspection: &Inspection<C>, sidecars: &[Sidecar]) -> Extracted {
    let mut found = Gathering::default();
    embedded::model_spec(&mut found, &inspection.metadata);
    embedded::trainer(&mut found, &inspection.metadata);
    if let Some(configs) = inspection.metadata.get("configs").and_then(Value::as_object) {
        configs::read(&mut found, configs);
    }
    let mut ordered: Vec<&Sidecar> = sidecars.iter().collect();
    ordered.sort();
    for sidecar in ordered {
        sidecars::read(&mut found, sidecar);
    }
    let mut extracted = found.finish();
    extracted.base_disagrees = disagrees(&extracted, inspection.base);
    extracted
}

/// [`extract`], put into the inspection's metadata. How a model predicts cannot be seen in most files: where nothing of it shows, a claim holds.
pub fn attach<C>(inspection: &mut Inspection<C>, sidecars: &[Sidecar]) {
    let extracted = extract(inspection, sidecars);
    let denoises = matches!(inspection.model_type, ModelType::Checkpoint | ModelType::Unet);
    if let Some(claim) = extracted.prediction_claim.as_ref().filter(|_| denoises && inspection.prediction.is_none()) {
        let source = extracted.sources.get("prediction_claim").map_or("metadata", String::as_str);
        inspection.evidence.push(Evidence::new("prediction.claim", source, claim.as_str()));
        inspection.prediction = Some(claim.clone());
    }
    let value = serde_json::to_value(&extracted).unwrap_or_else(|error| json!({ "problems": [error.to_string()] }));
    inspection.metadata.insert(EXTRACTED_KEY.to_owned(), storable_json(value));
}

/// The side-cars' identities, as [`extract`] notes them; for the question whether one has changed.
#[must_use]
pub fn sidecar_facts(sidecars: &[Sidecar]) -> Vec<SidecarFacts> {
    let mut facts: Vec<SidecarFacts> = sidecars
        .iter()
        .filter_map(|sidecar| {
            let file = sidecar::facts(sidecar).ok()?;
            Some(SidecarFacts {
                name: file.rel_path,
                kind: sidecar.kind,
                size_bytes: file.size,
                mtime_ns: file.mtime_ns,
                inode: file.inode,
            })
        })
        .collect();
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    facts
}

fn disagrees(extracted: &Extracted, detected: Base) -> bool {
    let claimed = extracted.base_claim.as_ref().and_then(|claim| claim.base);
    claimed.is_some_and(|claimed| detected != Base::Unknown && claimed != detected)
}
