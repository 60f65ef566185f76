//! The tables against the lists that diffusers and transformers give (`tests/reference/golden`).

use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;
use crate::{canonical::canonicalise, dtype::Dtype, inspection::TensorFacts};

/// The component of a golden list, under canonical names.
fn listed(kind: ComponentKind, base: Base, name: &str) -> Canonical {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors: Vec<TensorFacts> = text.lines().filter(|line| !line.starts_with('#')).map(tensor).collect();
    canonicalise(kind, base, &tensors)
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
];

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
    assert!(configs.len() >= RELEASES.len());
    for (name, config) in &configs {
        let known = RELEASES.iter().find(|(release, _, _)| release == name);
        let (kind, base) = known.map_or((ComponentKind::Unet, Base::Sdxl), |(_, kind, base)| (*kind, *base));
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
    let t5 = json!({ "model_type": "t5" });
    assert_eq!(expected(ComponentKind::TextEncoder, Base::Sd3, Some(&t5), &canonical), None);
}
