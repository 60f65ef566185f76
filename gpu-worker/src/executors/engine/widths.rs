//! Whether text encoders of other models belong before a model's UNet, told from headers: what no run could use is not applied,
//! tried dry or loaded either.

use std::collections::BTreeMap;

use engine::{
    ElementType, TensorFact, TensorFacts,
    arch::{
        clip::{Config, Role},
        unet2d,
    },
    generate::width_mismatch,
};
use model_formats::Inspection;
use serde_json::Value;
use shared::{db::models::ComponentRow, job::engine::ENCODER_KINDS};

use super::{super::model::Wanted, subject::Subject};
use crate::{error::WorkError, load_request::load_request, managers::parts};

/// The encoders that stand in, beside those of the model's own that stay, have states as wide as its UNet takes them. What
/// cannot be read as a CLIP encoder or a UNet is left to the run, which names its fault.
///
/// # Errors
/// [`WorkError::EncodersMisfit`] with the widths.
pub(super) fn must_fit(
    whole: &Wanted,
    inspection: &Inspection,
    encoders: &BTreeMap<String, Subject>,
) -> Result<(), WorkError> {
    let family = parts::base(&whole.model, inspection);
    let family = family.as_deref();
    let own = |kind: &str| whole.components.iter().find(|row| row.kind == kind);
    let config = |kind: &str| parts::config(&whole.model, inspection, kind).cloned();
    let Some(unet) = own("unet").and_then(|row| facts(row, inspection)) else { return Ok(()) };
    let Ok(unet) = unet2d::Config::read(config("unet").as_ref(), &unet, family) else { return Ok(()) };
    let mut read = Vec::new();
    for kind in ENCODER_KINDS {
        let one = match encoders.get(kind) {
            Some(subject) => subject.rows().first().map(|row| {
                let config = subject.part_as(&row.kind, kind).config;
                encoder(kind, (row, subject.inspection()), config.as_ref(), family)
            }),
            None => own(kind).map(|row| encoder(kind, (row, inspection), config(kind).as_ref(), family)),
        };
        match one {
            None => {}
            Some(Some(config)) => read.push((kind, config)),
            Some(None) => return Ok(()),
        }
    }
    let all: Vec<(&str, &Config)> = read.iter().map(|(kind, config)| (*kind, config)).collect();
    let model = || whole.model.name.clone();
    width_mismatch(&all, &unet).map_or(Ok(()), |reason| Err(WorkError::EncodersMisfit { model: model(), reason }))
}

fn encoder(
    kind: &str,
    (row, inspection): (&ComponentRow, &Inspection),
    config: Option<&Value>,
    family: Option<&str>,
) -> Option<Config> {
    let role = if kind == "text_encoder_2" { Role::Second } else { Role::First };
    Config::read(config, &facts(row, inspection)?, role, family).ok()
}

/// The canonical tensors of a component without their bytes; none where one of them is of a type that no graph takes.
fn facts(row: &ComponentRow, inspection: &Inspection) -> Option<TensorFacts> {
    let request = load_request(row, inspection)?;
    let plain = request.tensors.iter().map(|tensor| (&tensor.name, &tensor.dtype, &tensor.shape));
    let gathered = request.gathered.iter().map(|tensor| (&tensor.name, &tensor.dtype, &tensor.shape));
    let fact = |(name, dtype, shape): (&String, &String, &Vec<u64>)| {
        let shape = shape.iter().map(|side| usize::try_from(*side)).collect::<Result<_, _>>().ok()?;
        Some((name.clone(), TensorFact { dtype: ElementType::parse(dtype)?, shape }))
    };
    plain.chain(gathered).map(fact).collect()
}
