//! The configs of the adapters that repeat a part of their family's UNet.

use serde_json::{Value, json};

use super::{Sizes, sd15, sd21, sdxl};
use crate::vocab::Base;

/// ControlNets have the encoder of their family's UNet; small ones for SDXL have fewer transformers and no release.
pub(super) fn control(base: Base, sizes: &Sizes<'_>) -> Option<Value> {
    let (mut config, depth) = match base {
        Base::Sd15 => (sd15(), 1),
        Base::Sd21 => (sd21(), 1),
        Base::Sdxl => (sdxl(), 10),
        Base::SdxlRefiner | Base::Sd3 | Base::Flux | Base::Unknown => return None,
    };
    let width = sizes.any(&[("conv_in.weight", 0), ("controlnet_cond_embedding.conv_out.weight", 0)])?;
    // unions of several hints have a network of their own before the blocks
    let is_known = width == 320
        && sizes.count(".transformer_blocks.") == depth
        && sizes.dim("task_embedding", 0).is_none()
        && sizes.dim("control_type_proj.weight", 0).is_none();
    let settings = config.as_object_mut().filter(|_| is_known)?;
    settings.insert("_class_name".to_owned(), json!("ControlNetModel"));
    settings.remove("up_block_types");
    if let Some(hint) = sizes.dim("controlnet_cond_embedding.conv_in.weight", 1).filter(|hint| *hint <= 8) {
        settings.insert("conditioning_channels".to_owned(), json!(hint));
    }
    Some(config)
}

/// The full adapters for SD 1 and SDXL, of pictures with three channels or of maps with one.
pub(super) fn t2i(base: Base, sizes: &Sizes<'_>) -> Option<Value> {
    let (kind, factor): (_, u64) = match base {
        Base::Sd15 => ("full_adapter", 8),
        Base::Sdxl => ("full_adapter_xl", 16),
        _ => return None,
    };
    let inputs = sizes.dim("adapter.conv_in.weight", 1)?;
    let channels = inputs.checked_div(factor.checked_mul(factor)?).filter(|channels| matches!(channels, 1 | 3))?;
    let is_known = sizes.dim("adapter.conv_in.weight", 0) == Some(320) && sizes.count_from("adapter.body.") == 4;
    is_known.then(|| {
        json!({
            "_class_name": "T2IAdapter", "adapter_type": kind, "channels": [320, 640, 1280, 1280], "num_res_blocks": 2,
            "downscale_factor": factor, "in_channels": channels,
        })
    })
}
