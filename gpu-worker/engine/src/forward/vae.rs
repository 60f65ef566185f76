//! A VAE's smallest runs: eight latents a side decoded, as many pixels encoded.

use std::sync::Arc;

use super::{Component, ForwardReport, made, report};
use crate::{
    error::EngineError,
    models::vae::{Vae, VaeSettings},
    runtime::{Control, Runtime},
    tensor::Tensor,
    weights::Weights,
};

/// Latents along a side: enough that tiles of the lowest level still have neighbours.
const SIDE: usize = 8;

pub(super) fn check(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    control: &Control,
) -> Result<ForwardReport, EngineError> {
    let vae = Vae::open(runtime, component, weights, VaeSettings::default())?;
    let architecture = vae.architecture();
    let pixels = architecture.scale().saturating_mul(SIDE);
    let latents = made("latents", &[1, architecture.latent_channels(), SIDE, SIDE])?;
    let image = made("image", &[1, architecture.in_channels(), pixels, pixels])?;
    let name = architecture.name();
    let decoded = vae.raw(true, &latents, control)?;
    let encoded = vae.raw(false, &image, control)?;
    if decoded.is_none() && encoded.is_none() {
        let (architecture, first) = (name.to_owned(), "decoder.conv_in.weight".to_owned());
        return Err(EngineError::MissingWeights { architecture, count: 1, first });
    }
    let given = [("latents", &latents, &decoded), ("image", &image, &encoded)];
    let inputs: Vec<(&str, &Tensor)> =
        given.iter().filter(|(.., output)| output.is_some()).map(|(name, input, _)| (*name, *input)).collect();
    let outputs = [("decoded", &decoded), ("encoded", &encoded)];
    let outputs: Vec<(&str, &Tensor)> =
        outputs.iter().filter_map(|(name, output)| Some((*name, output.as_ref()?))).collect();
    Ok(report(name, &inputs, &outputs))
}
