//! The parts that go into a converted model: of which model each is, under canonical names, with averaged weights where those are
//! asked for.

use std::collections::HashMap;

use super::{ConvertError, Model};
use crate::{
    canonical::{Canonical, canonicalise},
    inspection::{Component, TensorFacts},
    onnx,
    vocab::{Base, ComponentKind},
};

/// Prefix of averaged weights; the rest of the name is that of the weight behind `model.`, without its dots.
const AVERAGE: &str = "model_ema.";

/// A part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) kind: ComponentKind,
    /// The model that it is of: 0 for the one that is converted.
    pub(super) model: usize,
    /// As its file has it.
    pub(super) stored: Vec<TensorFacts>,
    /// The same in canonical form.
    pub(super) canonical: Canonical,
}

/// The parts of `model`, its VAE replaced by that of `vae`, in the order of their kinds.
pub(super) fn parts(model: &Model, vae: Option<&Model>, use_ema: bool) -> Result<Vec<Part>, ConvertError> {
    let replaced = |part: &Component| vae.is_some() && part.kind == ComponentKind::Vae;
    let own = model.inspection.components.iter().filter(|part| !replaced(part));
    let mut parts = Vec::new();
    for component in own {
        if onnx::graph_file(&model.inspection, component.kind.as_str()).is_some() {
            return Err(ConvertError::Graph { component: component.kind });
        }
        let stored = match (use_ema, component.kind) {
            (true, ComponentKind::Unet) => averaged(&component.tensors, &model.tensors)?,
            _ => component.tensors.clone(),
        };
        parts.push(part(component.kind, model.inspection.base, 0, stored));
    }
    if let Some(vae) = vae {
        let own = vae.inspection.components.iter().find(|part| part.kind == ComponentKind::Vae);
        let own = own.ok_or(ConvertError::NoPart { component: ComponentKind::Vae, layout: "the place of the VAE" })?;
        parts.push(part(ComponentKind::Vae, vae.inspection.base, 1, own.tensors.clone()));
    }
    if use_ema && !parts.iter().any(|part| part.kind == ComponentKind::Unet) {
        return Err(ConvertError::NoAverage);
    }
    parts.sort_by_key(|part| part.kind);
    Ok(parts)
}

fn part(kind: ComponentKind, base: Base, model: usize, stored: Vec<TensorFacts>) -> Part {
    let canonical = canonicalise(kind, base, &stored);
    Part { kind, model, stored, canonical }
}

/// The tensors of a UNet with the bytes of their averages.
fn averaged(tensors: &[TensorFacts], all: &[TensorFacts]) -> Result<Vec<TensorFacts>, ConvertError> {
    let averages: HashMap<&str, &TensorFacts> =
        all.iter().filter_map(|tensor| Some((tensor.name.strip_prefix(AVERAGE)?, tensor))).collect();
    if averages.is_empty() {
        return Err(ConvertError::NoAverage);
    }
    let average = |tensor: &TensorFacts| {
        let key = tensor.name.strip_prefix("model.").unwrap_or(&tensor.name).replace('.', "");
        let found = averages.get(key.as_str()).filter(|found| found.shape == tensor.shape);
        let found = found.ok_or_else(|| ConvertError::BadAverage { tensor: tensor.name.clone() })?;
        Ok(TensorFacts { name: tensor.name.clone(), ..(*found).clone() })
    };
    tensors.iter().map(average).collect()
}

impl Part {
    /// Refuses a part with tensors that nobody knows, which have no name in any layout but their own.
    pub(super) fn must_be_known(&self) -> Result<(), ConvertError> {
        match self.canonical.unmapped.first() {
            None => Ok(()),
            Some(first) => Err(ConvertError::Unknown {
                component: self.kind,
                count: self.canonical.unmapped.len(),
                first: first.clone(),
            }),
        }
    }
}
