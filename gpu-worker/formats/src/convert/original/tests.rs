//! The way back: what diffusers' conversions make of original files is given the names and shapes that those files have, and what
//! was made is read as what it was made of. Random architectures besides those of releases.

use std::{collections::BTreeMap, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{architecture, dtype::Dtype};

/// A map of `tests/reference/make_maps.py`: kind, family, and the tensors of the original file.
fn map(name: &str) -> (ComponentKind, Base, Vec<TensorFacts>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/maps");
    let text = fs::read_to_string(path.join(format!("{name}.tsv"))).unwrap();
    let (head, body) = text.split_once('\n').unwrap();
    let head: Vec<&str> = head.trim_start_matches("# ").split('\t').collect();
    let kind = ComponentKind::parse(head[0]).unwrap();
    let list = body.lines().filter_map(|line| line.strip_prefix("<\t"));
    let tensors = list.map(|line| {
        let (name, sides) = line.split_once('\t').unwrap_or((line, ""));
        let sides = sides.split('\t').next().unwrap_or_default();
        (name.to_owned(), sides.split('x').filter(|side| !side.is_empty()).map(|side| side.parse().unwrap()).collect())
    });
    (kind, Base::parse(head[1]).unwrap(), facts(tensors.collect()))
}

fn facts(list: Vec<(String, Vec<u64>)>) -> Vec<TensorFacts> {
    let mut at = 0;
    let mut facts = |(name, shape): (String, Vec<u64>)| {
        let begin = at;
        at += bytes(32, &shape);
        TensorFacts { name, dtype: Dtype::F32, shape, file: 0, begin, end: at, strides: None }
    };
    list.into_iter().map(&mut facts).collect()
}

fn check(name: &str) {
    let (kind, base, tensors) = map(name);
    let canonical = canonicalise(kind, base, &tensors);
    let prefixes = ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."];
    let alone = !tensors.iter().any(|tensor| prefixes.iter().any(|prefix| tensor.name.starts_with(prefix)));
    let made = originals(kind, base, &canonical, alone).unwrap();
    let ours: BTreeMap<&str, &[u64]> =
        made.iter().map(|original| (original.name.as_str(), original.shape.as_slice())).collect();
    let used = tensors.iter().filter(|tensor| !canonical.ignored.contains(&tensor.name));
    let theirs: BTreeMap<&str, &[u64]> = used.map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    assert_eq!(ours, theirs, "{name}");
}

#[test]
fn every_original_name_and_shape_comes_back() {
    for family in ["sd15", "sd21", "sdxl", "sdxl-refiner"] {
        check(&format!("unet-{family}"));
        check(&format!("unet-{family}-real"));
    }
    ["vae", "vae-real", "vae16", "vae16-real"].into_iter().for_each(check);
    for encoder in ["clip-l", "clip-h", "clip-g", "clip-g-refiner"] {
        check(encoder);
        check(&format!("{encoder}-real"));
    }
}

#[test]
fn a_tensor_without_an_original_name_is_named() {
    let tensors = facts(vec![("conv_in.weight".into(), vec![4, 4, 3, 3]), ("made.up".into(), vec![1])]);
    let canonical = canonicalise(ComponentKind::Unet, Base::Sd15, &tensors);
    let refused = originals(ComponentKind::Unet, Base::Sd15, &canonical, false);
    assert!(matches!(refused, Err(ConvertError::NoOriginalName { tensor, .. }) if tensor == "made.up"));
}

/// A UNet of any number of levels, layers and depths.
fn unet() -> impl Strategy<Value = serde_json::Value> {
    let level = (any::<bool>(), 1_u64..4);
    (prop::collection::vec(level, 1..5), 1_u64..4, any::<bool>(), any::<bool>()).prop_map(
        |(levels, layers, linear, added)| {
            let pick =
                |with: &str, without: &str, attends: bool| if attends { with.to_owned() } else { without.to_owned() };
            let down = levels.iter().map(|(attends, _)| pick("CrossAttnDownBlock2D", "DownBlock2D", *attends));
            let up = levels.iter().rev().map(|(attends, _)| pick("CrossAttnUpBlock2D", "UpBlock2D", *attends));
            let mut config = json!({
                "_class_name": "UNet2DConditionModel",
                "block_out_channels": (1..=levels.len() as u64).map(|level| level * 32).collect::<Vec<_>>(),
                "cross_attention_dim": 24,
                "down_block_types": down.collect::<Vec<_>>(),
                "up_block_types": up.collect::<Vec<_>>(),
                "layers_per_block": layers,
                "transformer_layers_per_block": levels.iter().map(|(_, depth)| *depth).collect::<Vec<_>>(),
                "use_linear_projection": linear,
            });
            if added {
                config["addition_embed_type"] = json!("text_time");
                config["projection_class_embeddings_input_dim"] = json!(40);
            }
            config
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_unet_and_vae_goes_there_and_back(config in unet(), widths in prop::collection::vec(1_u64..3, 1..5), layers in 1_u64..4) {
        let base = if config["use_linear_projection"] == true { Base::Sdxl } else { Base::Sd15 };
        let added = config.get("addition_embed_type").is_some();
        // SD 1 has no sizes beside its steps
        let base = if added { Base::Sdxl } else { base };
        round(ComponentKind::Unet, base, &config);
        let vae = json!({
            "_class_name": "AutoencoderKL",
            "block_out_channels": widths.iter().map(|width| width * 32).collect::<Vec<_>>(),
            "down_block_types": vec!["DownEncoderBlock2D"; widths.len()],
            "up_block_types": vec!["UpDecoderBlock2D"; widths.len()],
            "layers_per_block": layers,
        });
        round(ComponentKind::Vae, Base::Sd15, &vae);
    }
}

/// Canonical tensors of a config, to original names and back through the reader.
fn round(kind: ComponentKind, base: Base, config: &serde_json::Value) {
    let table = architecture::expected(kind, base, Some(config), &Canonical::default()).unwrap();
    let list = table.tensors.into_iter().collect();
    let canonical = canonicalise(kind, base, &facts(list));
    let made = originals(kind, base, &canonical, false).unwrap();
    assert_eq!(made.iter().map(|original| original.from.len()).sum::<usize>(), canonical.tensors.len());
    let read = canonicalise(kind, base, &laid_out(&canonical, &made));
    let names = |canonical: &Canonical| -> Vec<(String, Vec<u64>)> {
        canonical.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
    };
    assert_eq!(names(&read), names(&canonical));
}
