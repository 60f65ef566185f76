//! VAEs and tiny preview autoencoders on their own.

use serde_json::Value;

use super::Verdict;
use crate::{
    keys::Keys,
    vocab::{Base, ModelType},
};

/// A VAE in LDM or diffusers naming. The family is only known where a config beside the file says it.
pub(super) fn vae(keys: &Keys<'_>, config: Option<&Value>) -> Option<Verdict> {
    let scope = keys.scope("");
    let shape = scope.shape("decoder.conv_in.weight")?;
    let middle = ["decoder.mid.block_1.conv1.weight", "decoder.mid_block.resnets.0.conv1.weight"];
    let naming = middle.into_iter().find(|key| scope.has(key))?;
    let mut verdict = Verdict::of(ModelType::Vae);
    verdict.saw("vae.decoder", naming, shape.to_vec());
    if shape.len() != 4 {
        return Some(Verdict::unknown("a video autoencoder, a kind this version does not know"));
    }
    let latent = shape.get(1).copied().unwrap_or_default();
    verdict.saw("vae.latent_channels", "decoder.conv_in.weight", latent);
    verdict.fact("latent_channels", latent);
    let quant = scope.has("post_quant_conv.weight");
    verdict.saw("vae.quant_conv", "post_quant_conv.weight", quant);
    match config.and_then(|config| config.get("scaling_factor")).and_then(Value::as_f64) {
        Some(factor) => by_scale(&mut verdict, factor),
        None => undecided(&mut verdict, latent, quant),
    }
    Some(verdict)
}

fn undecided(verdict: &mut Verdict, latent: u64, quant: bool) {
    let why = match (latent, quant) {
        (4, _) => "the VAEs of SD 1, SD 2 and SDXL have identical names and shapes",
        (16, false) => "the VAEs of SD 3 and FLUX have identical names and shapes",
        _ => "no known family has a VAE with this number of latent channels",
    };
    verdict.saw("vae.base_undecided", "decoder.conv_in.weight", why);
    verdict.reason = Some(format!("base unknown: {why}"));
}

/// The latent scale of the config beside the file is a property of the family.
fn by_scale(verdict: &mut Verdict, factor: f64) {
    let known = [(0.13025, Base::Sdxl), (1.5305, Base::Sd3), (0.3611, Base::Flux)];
    verdict.saw("vae.config_scaling_factor", "config.json", factor);
    verdict.fact("scaling_factor", factor);
    match known.into_iter().find(|(scale, _)| (scale - factor).abs() < 1e-6) {
        Some((_, base)) => verdict.base = base,
        None if (factor - 0.18215).abs() < 1e-6 => {
            verdict.reason = Some("base unknown: SD 1 and SD 2 share this VAE".to_owned());
        }
        None => verdict.reason = Some(format!("base unknown: no known family scales its latents by {factor}")),
    }
}

/// A tiny autoencoder in one of its three layouts.
pub(super) fn taesd(keys: &Keys<'_>) -> Option<Verdict> {
    let scope = keys.scope("");
    // (a key that tells it, another that must be there too, the latent side's weight, the latent axis)
    let layouts = [
        ("taesd_decoder.1.weight", "taesd_decoder.1.weight", "taesd_decoder.1.weight", 1),
        ("decoder.layers.0.weight", "encoder.layers.0.weight", "decoder.layers.0.weight", 1),
        ("1.weight", "3.conv.0.weight", "1.weight", 1),
        ("0.weight", "1.conv.0.weight", "0.weight", 1),
    ];
    let (key, _, latent, axis) = layouts.into_iter().find(|(key, also, _, _)| scope.has(key) && scope.has(also))?;
    let mut verdict = Verdict::of(ModelType::Taesd);
    verdict.saw("taesd.layout", key, scope.shape(key).unwrap_or_default().to_vec());
    if key == "0.weight" {
        verdict.saw("taesd.half", key, "encoder");
    } else if let Some(channels) = scope.dim(latent, axis) {
        verdict.saw("taesd.latent_channels", latent, channels);
        verdict.fact("latent_channels", channels);
    }
    verdict.reason = Some("base unknown: the tiny autoencoders of all families have identical names".to_owned());
    Some(verdict)
}
