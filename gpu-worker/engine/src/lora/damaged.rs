//! Arbitrary names, shapes and numbers as the tensors of a LoRA file, its settings and its blocks: they are read or refused, every
//! module is accounted for, and what fits is merged or refused. Nothing panics.

use std::{collections::BTreeMap, num::NonZeroUsize};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};

use super::{
    AdapterDocument, AdapterSettings, BaseTensor, BlockWeights, Entry, Lora, LoraTensor, estimate, match_base,
    merge_tensor,
};
use crate::tensor::ElementType;

/// What names of modules and parts are made of in every spelling that is read, and what is in none.
const PIECES: [&str; 40] = [
    "lora_unet_",
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "unet.",
    "text_encoder.",
    "base_model.model.",
    "transformer.",
    "diffusion_model.",
    "down_blocks_0_attentions_0_",
    "down_blocks.0.attentions.0.",
    "input_blocks_1_1_",
    "mid_block_",
    "transformer_blocks_0_attn1_",
    "transformer_blocks.0.attn1.",
    "to_q",
    "to_k.",
    "to_out.0",
    "processor.",
    "proj_in",
    "conv_in",
    "text_model_encoder_layers_0_mlp_fc1",
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_A.weight",
    ".lora_B.default.weight",
    ".lora.down.weight",
    "_lora.up.weight",
    ".lora_mid.weight",
    ".alpha",
    ".dora_scale",
    ".hada_w1_a",
    ".hada_w2_b",
    ".lokr_w1",
    ".lokr_w2_a",
    ".diff",
    ".diff_b",
    ".oft_blocks",
    ".",
    "ä",
];

#[derive(Debug, Clone)]
struct Owned {
    name: String,
    element: ElementType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Names as in files half of the time: pairs of factors under one stem.
fn names() -> impl Strategy<Value = Vec<String>> {
    let name = vec(select(&PIECES[..]), 0..6).prop_map(|pieces| pieces.concat());
    let stem = vec(select(&PIECES[..22]), 1..4).prop_map(|pieces| pieces.concat());
    let pair = (stem, select(&PIECES[22..38]), select(&PIECES[22..38]));
    let pairs = vec(pair, 0..4).prop_map(|pairs| {
        pairs.into_iter().flat_map(|(stem, a, b)| [format!("{stem}{a}"), format!("{stem}{b}")]).collect::<Vec<_>>()
    });
    (vec(name, 0..6), pairs).prop_map(|(names, pairs)| [names, pairs].concat())
}

fn tensor(name: String) -> impl Strategy<Value = Owned> {
    let shape = vec(0..5_usize, 0..5);
    let element = select(&[ElementType::F32, ElementType::F16, ElementType::Bf16, ElementType::I64][..]);
    (shape, element, any::<u8>(), prop_oneof![9 => Just(0_isize), 1 => -3..4_isize]).prop_map(
        move |(shape, element, byte, off)| {
            let length = shape.iter().product::<usize>() * element.bytes();
            let length = length.saturating_add_signed(off);
            Owned { name: name.clone(), element, shape, bytes: vec![byte; length] }
        },
    )
}

fn file() -> impl Strategy<Value = Vec<Owned>> {
    names().prop_flat_map(|names| names.into_iter().map(tensor).collect::<Vec<_>>())
}

/// A base whose modules some of these names mean.
fn base() -> Vec<BaseTensor> {
    let paths = [
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", vec![4, 3]),
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", vec![3, 4]),
        ("unet", "down_blocks.0.attentions.0.proj_in", vec![2, 4, 1, 1]),
        ("unet", "conv_in", vec![4, 3, 3, 3]),
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1", vec![4, 2]),
    ];
    let of = |(component, path, shape): (&str, &str, Vec<usize>)| BaseTensor {
        component: component.to_owned(),
        name: format!("{path}.weight"),
        bytes: 2 * shape.iter().product::<usize>() as u64,
        shape,
    };
    paths.map(of).into()
}

fn settings() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[a-z_.]{0,8}".prop_map(Value::from),
        Just(json!({ "to_q": 4, "[": "x", "conv_in": -1.5 })),
        Just(json!({ "to_q": 4, "conv_in": -1.5 })),
    ];
    let key =
        select(&["r", "lora_alpha", "use_rslora", "fan_in_fan_out", "alpha_pattern", "rank_pattern", "unet.r"][..]);
    btree_map(key.prop_map(str::to_owned), value, 0..6).prop_map(|map| map.into_iter().collect())
}

fn blocks() -> impl Strategy<Value = BTreeMap<String, f64>> {
    let path = vec(
        select(&["", "mid_block", "down_blocks", ".", "0", "down_blocks.0.attentions.0", "ä", "conv_in"][..]),
        0..4,
    );
    btree_map(path.prop_map(|pieces| pieces.join(".")), -4.0..4.0_f64, 0..5)
}

fn merged(lora: &Lora, base: &[BaseTensor], entry: &Entry) {
    let report = match_base(lora, base);
    let told = report.matched.len() + report.unmatched.len() + report.mismatched.len();
    assert_eq!(told, lora.modules.len(), "every module fits, does not fit, or is not there");
    assert!(estimate(lora, &report, NonZeroUsize::MIN).as_secs_f64() >= 0.0);
    for fit in &report.matched {
        let module = lora.modules.iter().find(|module| module.stem == fit.stem).expect("a module of the file");
        let strength = entry.strength(&fit.component, &fit.path);
        assert!(strength.is_finite(), "{}: {strength}", fit.path);
        let name = format!("{}.weight", fit.path);
        let there = base.iter().find(|tensor| tensor.component == fit.component && tensor.name == name);
        let Some(tensor) = there.filter(|_| report.refusal().is_none()) else { continue };
        let bytes = vec![0; usize::try_from(tensor.bytes).expect("a small tensor")];
        let made =
            merge_tensor(&name, (ElementType::F16, &tensor.shape, &bytes), &[(module, strength)], NonZeroUsize::MIN);
        assert!(made.is_err() || made.is_ok_and(|made| made.len() == bytes.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_file_of_a_lora_panics(file in file(), said in settings(), blocks in blocks(), weight in -2.0..2.0_f64) {
        let tensors: Vec<LoraTensor<'_>> = file
            .iter()
            .map(|one| LoraTensor { name: &one.name, element: one.element, shape: &one.shape, bytes: &one.bytes })
            .collect();
        let said = AdapterDocument::parse(&Value::Object(said).to_string()).unwrap();
        // what is refused is not applied: nothing to merge with
        let of = |component: &str| Some((component.to_owned(), said.of(component).ok()??));
        let all: BTreeMap<String, AdapterSettings> = ["", "unet"].into_iter().filter_map(of).collect();
        if let Ok(lora) = Lora::read(&tensors, &all) {
            let blocks = BlockWeights(blocks);
            let entry = Entry { digest: "d".into(), weight, text_encoder_weight: None, blocks };
            merged(&lora, &base(), &entry);
        }
    }
}
