//! The tables against the lists that diffusers and transformers give (`tests/reference/golden`).

use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;
use crate::{canonical::canonicalise, dtype::Dtype, inspection::TensorFacts};

/// The component of a golden list, under canonical names.
fn listed(kind: ComponentKind, base: Base, name: &str) -> Canonical {
    canonicalise(kind, base, &facts(name))
}

fn facts(name: &str) -> Vec<TensorFacts> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().filter(|line| !line.starts_with('#')).map(tensor).collect()
}

fn tensor(line: &str) -> TensorFacts {
    let (name, shape) = line.split_once('\t').unwrap();
    let shape: Vec<u64> = shape.split('x').map(|side| side.parse().unwrap()).collect();
    let end = 2 * shape.iter().product::<u64>();
    TensorFacts { name: name.to_owned(), dtype: Dtype::F16, shape, file: 0, begin: 0, end, strides: None }
}

fn exact(table: &Table, canonical: &Canonical) {
    let ours: Vec<(&String, &Vec<u64>)> = table.tensors.iter().collect();
    let theirs: Vec<(&String, &Vec<u64>)> =
        canonical.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape)).collect();
    assert_eq!(ours, theirs, "{}", table.class);
    assert_eq!(compare(table, canonical), []);
}

const RELEASES: &[(&str, ComponentKind, Base)] = &[
    ("unet-sd15", ComponentKind::Unet, Base::Sd15),
    ("unet-sd21", ComponentKind::Unet, Base::Sd21),
    ("unet-sdxl", ComponentKind::Unet, Base::Sdxl),
    ("unet-sdxl-refiner", ComponentKind::Unet, Base::SdxlRefiner),
    ("vae", ComponentKind::Vae, Base::Unknown),
    ("vae16", ComponentKind::Vae, Base::Unknown),
    ("taesd", ComponentKind::Vae, Base::Unknown),
    ("clip-l", ComponentKind::TextEncoder, Base::Sd15),
    ("clip-h", ComponentKind::TextEncoder, Base::Sd21),
    ("clip-g", ComponentKind::TextEncoder2, Base::Sdxl),
    ("mmdit-sd3-medium", ComponentKind::Transformer, Base::Sd3),
    ("mmdit-sd35-medium", ComponentKind::Transformer, Base::Sd3),
    ("mmdit-sd35-large", ComponentKind::Transformer, Base::Sd3),
    ("flux-dev", ComponentKind::Transformer, Base::Flux),
    ("flux-schnell", ComponentKind::Transformer, Base::Flux),
    ("t5-xxl", ComponentKind::TextEncoder3, Base::Sd3),
    ("controlnet-sd15", ComponentKind::ControlNet, Base::Sd15),
    ("controlnet-sdxl", ComponentKind::ControlNet, Base::Sdxl),
    ("t2i-sd15", ComponentKind::T2iAdapter, Base::Sd15),
    ("t2i-sdxl", ComponentKind::T2iAdapter, Base::Sdxl),
    ("ip-adapter-sd15", ComponentKind::IpAdapter, Base::Sd15),
    ("ip-adapter-sd15-plus", ComponentKind::IpAdapter, Base::Sd15),
    ("ip-adapter-sd15-full-face", ComponentKind::IpAdapter, Base::Sd15),
    ("ip-adapter-sdxl", ComponentKind::IpAdapter, Base::Sdxl),
    ("ip-adapter-sdxl-plus", ComponentKind::IpAdapter, Base::Sdxl),
];
/// Files of these come without a config.
const WITHOUT_CONFIG: &str = "ip-adapter-";

#[test]
fn the_tables_of_the_releases_are_exactly_diffusers_lists() {
    for (name, kind, base) in RELEASES {
        let canonical = listed(*kind, *base, name);
        let table = expected(*kind, *base, None, &canonical).unwrap_or_else(|| panic!("no table for {name}"));
        exact(&table, &canonical);
    }
}

/// The configs that diffusers wrote for its own models, with every setting spelled out.
#[test]
fn the_tables_of_diffusers_configs_are_exactly_its_lists() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/configs.json");
    let configs: serde_json::Map<String, Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let described = RELEASES.iter().filter(|(name, _, _)| !name.starts_with(WITHOUT_CONFIG));
    assert!(described.clone().all(|(name, _, _)| configs.contains_key(*name)));
    for (name, config) in &configs {
        let known = RELEASES.iter().find(|(release, _, _)| release == name);
        let (kind, base) = known.map_or((ComponentKind::Unet, Base::Unknown), |(_, kind, base)| (*kind, *base));
        let canonical = listed(kind, base, name);
        let table = expected(kind, base, Some(config), &canonical).unwrap_or_else(|| panic!("no table for {name}"));
        exact(&table, &canonical);
    }
}

fn sd15() -> (Canonical, Table) {
    let canonical = listed(ComponentKind::Unet, Base::Sd15, "unet-sd15");
    let table = expected(ComponentKind::Unet, Base::Sd15, None, &canonical).unwrap();
    (canonical, table)
}

#[test]
fn differences_are_named_with_the_nearest_missing_name() {
    let (mut canonical, table) = sd15();
    let at =
        |canonical: &Canonical, name: &str| canonical.tensors.iter().position(|tensor| tensor.name == name).unwrap();
    let renamed = at(&canonical, "mid_block.resnets.0.conv1.weight");
    canonical.tensors[renamed].name = "mid_block.resnet.0.conv1.weight".to_owned();
    let narrow = at(&canonical, "conv_in.weight");
    canonical.tensors[narrow].shape = vec![320, 9, 3, 3];
    canonical.unmapped.push("nobody.knows".to_owned());
    let differences = compare(&table, &canonical);
    let name = "mid_block.resnets.0.conv1.weight".to_owned();
    let found = vec![1280, 1280, 3, 3];
    assert_eq!(
        differences,
        [
            Difference::WrongShape {
                name: "conv_in.weight".to_owned(),
                expected: vec![320, 4, 3, 3],
                found: vec![320, 9, 3, 3]
            },
            Difference::Missing { name: name.clone(), expected: found.clone() },
            Difference::Unexpected {
                name: "mid_block.resnet.0.conv1.weight".to_owned(),
                found: Some(found),
                nearest: Some(name)
            },
            Difference::Unexpected { name: "nobody.knows".to_owned(), found: None, nearest: None },
        ]
    );
}

#[test]
fn linear_and_pointwise_projections_are_the_same() {
    let (mut canonical, table) = sd15();
    for tensor in canonical.tensors.iter_mut().filter(|tensor| tensor.name.ends_with("proj_in.weight")) {
        tensor.shape.truncate(2);
    }
    assert_eq!(compare(&table, &canonical), []);
}

/// A family of which the file does not say how its projections are stored; where it is known there is one form.
#[test]
fn a_squeezed_projection_of_a_known_family_has_the_families_form() {
    for (name, base, rank) in [("unet-sd15", Base::Sd15, 4), ("unet-sd21", Base::Sd21, 2), ("unet-sdxl", Base::Sdxl, 2)]
    {
        let (usual, other) = (listed_with(name, base, |_| {}), listed_with(name, base, turn_projections));
        let of = |canonical: &Canonical| -> Vec<(String, Vec<u64>)> {
            canonical.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
        };
        assert_eq!(of(&usual), of(&other), "{name}");
        let projection =
            other.tensors.iter().find(|tensor| tensor.name.ends_with("attentions.0.proj_in.weight")).unwrap();
        assert_eq!(projection.shape.len(), rank, "{name}");
        // where the family is not known, what is in the file stays
        assert_ne!(of(&listed_with(name, Base::Unknown, turn_projections)), of(&usual), "{name}");
    }
}

fn turn_projections(tensor: &mut TensorFacts) {
    if tensor.name.contains(".attentions.")
        && (tensor.name.ends_with(".proj_in.weight") || tensor.name.ends_with(".proj_out.weight"))
    {
        match tensor.shape.as_slice() {
            [_, _] => tensor.shape.extend([1, 1]),
            _ => tensor.shape.truncate(2),
        }
    }
}

fn listed_with(name: &str, base: Base, change: impl Fn(&mut TensorFacts)) -> Canonical {
    let mut tensors = facts(name);
    tensors.iter_mut().for_each(change);
    canonicalise(ComponentKind::Unet, base, &tensors)
}

/// Scales of 8-bit files belong to their weights, those of nothing do not.
#[test]
fn scales_are_expected_where_their_weights_are() {
    let mut tensors = facts("unet-sd15");
    let scale = |module: &str| tensor(&format!("{module}.scale_weight\t1"));
    tensors.extend([scale("mid_block.attentions.0.proj_in"), scale("nothing"), tensor("scaled_fp8\t0")]);
    let canonical = canonicalise(ComponentKind::Unet, Base::Sd15, &tensors);
    let table = expected(ComponentKind::Unet, Base::Sd15, None, &canonical).unwrap();
    let name = "nothing.scale_weight".to_owned();
    assert_eq!(compare(&table, &canonical), [Difference::Unexpected { name, found: Some(vec![1]), nearest: None }]);
    assert_eq!(canonical.ignored, ["scaled_fp8"]);
}

#[test]
fn inpainting_takes_its_inputs_from_the_tensors() {
    let (mut canonical, _) = sd15();
    for tensor in canonical.tensors.iter_mut().filter(|tensor| tensor.name == "conv_in.weight") {
        tensor.shape[1] = 9;
    }
    let table = expected(ComponentKind::Unet, Base::Sd15, None, &canonical).unwrap();
    assert_eq!(compare(&table, &canonical), []);
}

#[test]
fn what_is_not_a_release_has_no_table_without_a_config() {
    let (mut canonical, _) = sd15();
    for tensor in canonical.tensors.iter_mut().filter(|tensor| tensor.name == "conv_in.weight") {
        tensor.shape[0] = 32;
    }
    assert_eq!(expected(ComponentKind::Unet, Base::Sd15, None, &canonical), None);
    assert_eq!(expected(ComponentKind::Unet, Base::Unknown, None, &sd15().0), None);
    assert_eq!(expected(ComponentKind::Lora, Base::Sd15, None, &canonical), None);
}

#[test]
fn settings_that_are_not_understood_give_no_table() {
    let canonical = sd15().0;
    let configs = [
        json!([]),
        json!({ "_class_name": "UNet3DConditionModel" }),
        json!({ "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"] }),
        json!({ "block_out_channels": [] }),
        json!({ "block_out_channels": [u64::MAX, 1, 1, 1] }),
        json!({ "layers_per_block": 100_000 }),
        json!({ "transformer_layers_per_block": 1_000_000 }),
        json!({ "in_channels": "four" }),
        json!({ "addition_embed_type": "text_image" }),
        json!({ "addition_embed_type": "text_time" }),
        json!({ "encoder_hid_dim": 4096 }),
        json!({ "dual_cross_attention": true }),
    ];
    for config in configs {
        assert_eq!(expected(ComponentKind::Unet, Base::Sd15, Some(&config), &canonical), None, "{config}");
    }
    let t5 = json!({ "model_type": "t5", "d_model": 0 });
    assert_eq!(expected(ComponentKind::TextEncoder, Base::Sd3, Some(&t5), &canonical), None);
}
