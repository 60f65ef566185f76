//! `vae/config.json`. The scale of latents leaves no trace in tensors: it is the family's, and a VAE of no known family has none.

use serde_json::{Value, json};

use super::{DIFFUSERS, count, side};
use crate::{canonical::Canonical, vocab::Base};

/// The config; why there is none otherwise.
pub(super) fn config(canonical: &Canonical, base: Base) -> Result<Value, String> {
    let (scaling, sample, upcast) = match base {
        Base::Sd15 => (0.18215, 512, false),
        Base::Sd21 => (0.18215, 768, false),
        Base::Sdxl | Base::SdxlRefiner => (0.13025, 1024, true),
        _ => {
            return Err(
                "no tensor tells the scale of a VAE's latents: say with `base` of which family it is".to_owned()
            );
        }
    };
    let latent = side(canonical, "decoder.conv_in.weight", 1)?;
    if canonical.get("quant_conv.weight").is_none() {
        return Err("VAEs without `quant_conv` belong to other families".to_owned());
    }
    let levels = count(canonical, "encoder.down_blocks.");
    let width = |level: u64| side(canonical, &format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"), 0);
    let channels = (0..levels).map(width).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "force_upcast": upcast,
        "in_channels": side(canonical, "encoder.conv_in.weight", 1)?,
        "latent_channels": latent,
        "layers_per_block": count(canonical, "encoder.down_blocks.0.resnets."),
        "norm_num_groups": 32,
        "out_channels": side(canonical, "decoder.conv_out.weight", 0)?,
        "sample_size": sample,
        "scaling_factor": scaling,
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
    }))
}
