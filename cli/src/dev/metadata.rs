//! The `__metadata__` of single files: ModelSpec's keys and, for LoRAs, the trainer's.

use std::collections::BTreeMap;

use super::{
    options::{Arch, Scale},
    plan::Request,
    sizes,
};

/// What ModelSpec calls an architecture; none where it has no name for it.
const fn architecture(arch: Arch) -> Option<&'static str> {
    Some(match arch {
        Arch::Sd15 => "stable-diffusion-v1",
        Arch::Sd21 => "stable-diffusion-v2-768-v",
        Arch::Sdxl => "stable-diffusion-xl-v1-base",
        Arch::SdxlRefiner => "stable-diffusion-xl-v1-refiner",
        Arch::Vae => "stable-diffusion-v1/vae",
        Arch::VaeSdxl => "stable-diffusion-xl-v1-base/vae",
        Arch::Vae16 => "stable-diffusion-v3-medium/vae",
        Arch::LoraSd15 => "stable-diffusion-v1/lora",
        Arch::LoraSdxl => "stable-diffusion-xl-v1-base/lora",
        Arch::ControlnetSd15 => "stable-diffusion-v1/controlnet",
        Arch::Embedding => "stable-diffusion-v1/textual-inversion",
        Arch::EmbeddingSdxl => "stable-diffusion-xl-v1-base/textual-inversion",
        Arch::Taesd | Arch::ClipL | Arch::ClipG => return None,
    })
}

/// Pixels of one side that the release works at.
const fn resolution(arch: Arch) -> u64 {
    match arch {
        Arch::Sd15 | Arch::LoraSd15 | Arch::ControlnetSd15 | Arch::Vae | Arch::Embedding => 512,
        Arch::Sd21 => 768,
        _ => 1024,
    }
}

/// The metadata of a single file. No date: equal requests make equal files.
pub(super) fn metadata(arch: Arch, request: &Request) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut put = |key: &str, value: String| map.insert(key.to_owned(), value);
    if let Some(architecture) = architecture(arch) {
        put("modelspec.sai_model_spec", "1.0.1".to_owned());
        put("modelspec.architecture", architecture.to_owned());
        put("modelspec.implementation", "sgm".to_owned());
        put("modelspec.title", format!("{} {} random weights", arch.name(), request.scale.name()));
        put("modelspec.author", "modelyard dev make-models".to_owned());
        put("modelspec.description", format!("Random weights of seed {}: makes no pictures.", request.seed));
        let side = resolution(arch);
        put("modelspec.resolution", format!("{side}x{side}"));
    }
    match arch {
        Arch::Sd21 => _ = put("modelspec.prediction_type", "v".to_owned()),
        Arch::Sd15 | Arch::Sdxl | Arch::SdxlRefiner => {
            put("modelspec.prediction_type", "epsilon".to_owned());
        }
        Arch::LoraSd15 => trainer(&mut put, "sd_v1", request.scale),
        Arch::LoraSdxl => trainer(&mut put, "sdxl_base_v1-0", request.scale),
        _ => {}
    }
    map
}

/// What kohya's trainer writes: text values only.
fn trainer(put: &mut impl FnMut(&str, String) -> Option<String>, base: &str, scale: Scale) {
    let (rank, alpha) = sizes::lora(scale);
    let facts = [
        ("ss_base_model_version", base.to_owned()),
        ("ss_network_module", "networks.lora".to_owned()),
        ("ss_network_dim", rank.to_string()),
        ("ss_network_alpha", format!("{alpha:.1}")),
        ("ss_output_name", format!("random-{}", scale.name())),
        ("ss_v2", "False".to_owned()),
    ];
    for (key, value) in facts {
        put(key, value);
    }
}
