//! The header of a blend: what programs look for in a LoRA's file, and what it was made from.

use std::collections::BTreeMap;

use engine::lora::blend::Blended;
use model_formats::write::MADE_FROM_KEY;
use serde_json::json;
use shared::job::engine::BlendLorasArgs;

use super::Part;

/// The fields that do not depend on the result. `family` is that of the base that was named.
pub(super) fn metadata(args: &BlendLorasArgs, parts: &[Part], family: Option<&str>) -> BTreeMap<String, String> {
    let file = args.output.path.rsplit('/').next().unwrap_or_default();
    let stem = file.strip_suffix(".safetensors").unwrap_or(file);
    let title = args.title.clone().unwrap_or_else(|| stem.to_owned());
    let family = family.map_or_else(|| common(parts), |family| Some(family.to_owned()));
    let (version, architecture) = family.as_deref().and_then(known).unzip();
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    let fields = [
        ("format", Some("pt".to_owned())),
        ("ss_network_module", Some("networks.lora".to_owned())),
        ("ss_output_name", Some(stem.to_owned())),
        ("ss_base_model_version", version.map(str::to_owned)),
        ("modelspec.sai_model_spec", Some("1.0.1".to_owned())),
        ("modelspec.architecture", architecture.map(|name| format!("{name}/lora"))),
        ("modelspec.implementation", Some("diffusers".to_owned())),
        ("modelspec.title", Some(title)),
        ("modelspec.merged_from", Some(names.join(", "))),
        (MADE_FROM_KEY, Some(made_from(args, parts))),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// With the rank that trainers write down; `Dynamic` where modules have several.
pub(super) fn with_ranks(mut metadata: BTreeMap<String, String>, blended: &Blended) -> BTreeMap<String, String> {
    let mut ranks: Vec<usize> = blended.modules.iter().map(|module| module.rank).filter(|rank| *rank > 0).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let rank = match ranks.as_slice() {
        [] => return metadata,
        [one] => one.to_string(),
        _ => "Dynamic".to_owned(),
    };
    for key in ["ss_network_dim", "ss_network_alpha"] {
        metadata.insert(key.to_owned(), rank.clone());
    }
    metadata
}

/// The family of all LoRAs; none when they differ.
fn common(parts: &[Part]) -> Option<String> {
    let first = parts.first()?;
    parts.iter().all(|part| part.model.base == first.model.base).then(|| first.model.base.clone())
}

/// What kohya's trainer and ModelSpec call a family.
fn known(family: &str) -> Option<(&'static str, &'static str)> {
    Some(match family {
        "sd15" => ("sd_v1", "stable-diffusion-v1"),
        "sd21" => ("sd_v2", "stable-diffusion-v2-768-v"),
        "sdxl" => ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
        "sdxl-refiner" => ("sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner"),
        _ => return None,
    })
}

/// Sources with their digests and weights, and how they were put together.
fn made_from(args: &BlendLorasArgs, parts: &[Part]) -> String {
    let source = |part: &Part| {
        let used = &part.used;
        json!({
            "name": part.name, "digest": part.lease.digest().to_string(), "weight": used.weight,
            "text_encoder_weight": used.text_encoder_weight, "blocks": used.blocks,
        })
    };
    let loras: Vec<_> = parts.iter().map(source).collect();
    json!({
        "by": "blend_loras", "loras": loras, "rank": args.rank, "energy": args.energy, "dtype": args.dtype.as_str(),
    })
    .to_string()
}
