//! Files of every flavour against what their own libraries make of them, and the properties of a merge.

use std::{collections::BTreeMap, fs, num::NonZeroUsize, path::Path};

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;
use shared::error::{Classify, ErrorCode};

use super::*;
use crate::tensor::ElementType;

const THREADS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

pub(super) fn golden() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/loras.safetensors");
    fs::read(path).unwrap()
}

/// One case: base, file, settings, merged.
pub(super) struct Case<'a> {
    shape: Vec<usize>,
    base: &'a [u8],
    file: Vec<(String, Vec<usize>, &'a [u8])>,
    pub(super) settings: BTreeMap<String, AdapterSettings>,
    merged: Vec<f64>,
}

impl Case<'_> {
    pub(super) fn tensors(&self) -> Vec<LoraTensor<'_>> {
        let tensor = |(name, shape, bytes)| LoraTensor { name, element: ElementType::F32, shape, bytes };
        self.file.iter().map(|(name, shape, bytes)| tensor((name, shape, bytes))).collect()
    }

    pub(super) fn lora(&self) -> Lora {
        Lora::read(&self.tensors(), &self.settings).unwrap()
    }

    fn base_values(&self) -> Vec<f32> {
        self.base.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
    }
}

pub(super) fn cases(bytes: &[u8]) -> BTreeMap<String, Case<'_>> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let said = header.metadata().clone().unwrap_or_default();
    let mut cases = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(bytes).unwrap().tensors() {
        let (case, rest) = name.split_once('|').unwrap();
        let settings = said.get(case).and_then(|text| AdapterDocument::parse(text).unwrap().of("").unwrap());
        let case = cases.entry(case.to_owned()).or_insert_with(|| Case {
            shape: Vec::new(),
            base: &[],
            file: Vec::new(),
            settings: settings.map(|settings| (String::new(), settings)).into_iter().collect(),
            merged: Vec::new(),
        });
        match rest {
            "base" => (case.base, case.shape) = (view.data(), view.shape().to_vec()),
            "merged" => {
                case.merged = view.data().as_chunks().0.iter().map(|value| f64::from_le_bytes(*value)).collect()
            }
            file => {
                case.file.push((file.strip_prefix("file|").unwrap().to_owned(), view.shape().to_vec(), view.data()))
            }
        }
    }
    cases
}

fn base_of(case: &Case<'_>) -> Vec<BaseTensor> {
    vec![BaseTensor {
        component: "unet".into(),
        name: "x.weight".into(),
        shape: case.shape.clone(),
        bytes: case.base.len() as u64,
    }]
}

#[test]
fn every_flavour_is_merged_as_its_own_library_merges_it() {
    let bytes = golden();
    let cases = cases(&bytes);
    assert!(cases.len() >= 39, "{}", cases.len());
    for (name, case) in &cases {
        let lora = case.lora();
        let report = match_base(&lora, &base_of(case));
        assert_eq!((report.matched.len(), report.refusal()), (1, None), "{name}: {report:?}");
        let base = case.base_values();
        for strength in [1.0, -0.5] {
            let merged =
                merge((ElementType::F32, &case.shape, case.base), &[(&lora.modules[0], strength)], THREADS).unwrap();
            let merged: Vec<f32> = merged.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
            let range = case.merged.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            for ((found, wanted), base) in merged.iter().zip(&case.merged).zip(&base) {
                let wanted = f64::from(*base) + strength * (wanted - f64::from(*base));
                assert!(
                    (f64::from(*found) - wanted).abs() < 2e-6 * range.max(1.0),
                    "{name} {strength}: {found} {wanted}"
                );
            }
        }
    }
}

/// Whatever floats a file is stored in, its factors and alphas are the values that it holds.
#[test]
fn factors_of_every_storage_are_the_values_that_they_hold() {
    type Turn = fn(f32) -> (Vec<u8>, f32);
    let turns: [(ElementType, Turn); 3] = [
        (ElementType::F16, |value| (f16::from_f32(value).to_le_bytes().to_vec(), f16::from_f32(value).to_f32())),
        (ElementType::Bf16, |value| (bf16::from_f32(value).to_le_bytes().to_vec(), bf16::from_f32(value).to_f32())),
        (ElementType::F64, |value| (f64::from(value).to_le_bytes().to_vec(), value)),
    ];
    let bytes = golden();
    for (name, case) in &cases(&bytes) {
        let tensors = case.tensors();
        for (element, turn) in turns {
            let turned = |tensor: &LoraTensor<'_>| -> (Vec<u8>, Vec<u8>) {
                let values = tensor.bytes.as_chunks().0.iter().map(|value| turn(f32::from_le_bytes(*value)));
                let (stored, held): (Vec<Vec<u8>>, Vec<f32>) = values.unzip();
                (stored.concat(), held.into_iter().flat_map(f32::to_le_bytes).collect())
            };
            let turned: Vec<(Vec<u8>, Vec<u8>)> = tensors.iter().map(turned).collect();
            let both = || tensors.iter().zip(&turned);
            let stored: Vec<LoraTensor<'_>> =
                both().map(|(tensor, (bytes, _))| LoraTensor { element, bytes, ..*tensor }).collect();
            let held: Vec<LoraTensor<'_>> =
                both().map(|(tensor, (_, bytes))| LoraTensor { bytes, ..*tensor }).collect();
            let read = |tensors: &[LoraTensor<'_>]| Lora::read(tensors, &case.settings).unwrap();
            assert_eq!(read(&stored), read(&held), "{name} {element}");
        }
    }
}

/// Into 16 bits the sum is rounded once: no result is further off than half a step of the exact one, up to the error of a
/// sum in 32 bits.
#[test]
fn sixteen_bits_are_rounded_once() {
    let bytes = golden();
    for (name, case) in &cases(&bytes) {
        let stored: Vec<f16> = case.base_values().into_iter().map(f16::from_f32).collect();
        let base: Vec<u8> = stored.iter().flat_map(|value| value.to_le_bytes()).collect();
        let wide: Vec<u8> = stored.iter().flat_map(|value| value.to_f32().to_le_bytes()).collect();
        let lora = case.lora();
        let one = [(&lora.modules[0], 1.0)];
        let narrow = merge((ElementType::F16, &case.shape, &base), &one, THREADS).unwrap();
        let wide = merge((ElementType::F32, &case.shape, &wide), &one, THREADS).unwrap();
        for (narrow, wide) in narrow.as_chunks().0.iter().zip(wide.as_chunks().0) {
            assert_eq!(f16::from_le_bytes(*narrow), f16::from_f32(f32::from_le_bytes(*wide)), "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_applied() {
    let bytes = golden();
    let cases = cases(&bytes);
    let case = &cases["lora"];
    let lora = case.lora();
    let mut base = base_of(case);
    base[0].shape = vec![40, 20];
    let report = match_base(&lora, &base);
    assert!(report.refusal().is_some_and(|why| why.contains("`lora_unet_x` changes 40 by 24")), "{report:?}");
    base[0].name = "y.weight".into();
    let report = match_base(&lora, &base);
    assert_eq!(report.unmatched, ["lora_unet_x"]);
    assert!(report.refusal().is_some_and(|why| why.contains("only 0 of its 1 modules")), "{report:?}");
    let base = vec![0_u8; 40 * 20 * 4];
    let refused = merge((ElementType::F32, &[40, 20], &base), &[(&lora.modules[0], 1.0)], THREADS).unwrap_err();
    assert!(matches!(refused, MergeError::Shape { found: [40, 24], .. }), "{refused:?}");
    let base = vec![0_u8; 40 * 24];
    let refused = merge((ElementType::F8E4M3, &[40, 24], &base), &[(&lora.modules[0], 1.0)], THREADS).unwrap_err();
    assert_eq!(refused, MergeError::Type { found: ElementType::F8E4M3 });
    let base: Vec<u8> = std::iter::repeat_n(f16::MAX.to_le_bytes(), 40 * 24).flatten().collect();
    let refused = merge((ElementType::F16, &[40, 24], &base), &[(&lora.modules[0], 1e5)], THREADS).unwrap_err();
    assert!(matches!(refused, MergeError::Overflow { values: 1.., .. }), "{refused:?}");
}

#[test]
fn bad_files_are_refused_with_the_tensor_at_fault() {
    let values = |count: usize| vec![0_u8; count * 4];
    let read = |tensors: &[(&str, &[usize], Vec<u8>)]| {
        let tensors: Vec<LoraTensor<'_>> = tensors
            .iter()
            .map(|(name, shape, bytes)| LoraTensor { name, element: ElementType::F32, shape, bytes })
            .collect();
        Lora::read(&tensors, &BTreeMap::new()).unwrap_err()
    };
    let (down, up) = ("a.lora_down.weight", "a.lora_up.weight");
    assert_eq!(read(&[("x", &[1], values(1))]), LoraError::NoLora { tensors: 1 });
    assert!(matches!(read(&[(down, &[2, 3], values(6))]), LoraError::Incomplete { module, .. } if module == "a"));
    assert!(matches!(read(&[("a.alpha", &[], values(1))]), LoraError::Incomplete { .. }));
    let unlike = read(&[(down, &[2, 3], values(6)), (up, &[4, 3], values(12))]);
    assert!(matches!(&unlike, LoraError::Shape { tensor, .. } if tensor == up), "{unlike:?}");
    let cut = read(&[(down, &[2, 3], values(5)), (up, &[4, 2], values(8))]);
    assert!(matches!(&cut, LoraError::Tensor { tensor, .. } if tensor == down), "{cut:?}");
    let empty = read(&[(down, &[0, 3], values(0)), (up, &[4, 0], values(0))]);
    assert!(matches!(&empty, LoraError::Tensor { .. } | LoraError::Shape { .. }), "{empty:?}");
    let twice = read(&[
        ("a.lora_A.one.weight", &[2, 3], values(6)),
        ("a.lora_A.two.weight", &[2, 3], values(6)),
        ("a.lora_B.one.weight", &[4, 2], values(8)),
    ]);
    assert!(matches!(&twice, LoraError::Incomplete { reason, .. } if reason.contains("lora_A.two")), "{twice:?}");
    let unlike = read(&[
        ("a.hada_w1_a", &[6, 2], values(12)),
        ("a.hada_w1_b", &[2, 3], values(6)),
        ("a.hada_w2_a", &[3, 2], values(6)),
        ("a.hada_w2_b", &[2, 6], values(12)),
    ]);
    assert!(matches!(&unlike, LoraError::Shape { tensor, .. } if tensor == "a.hada_w2_a"), "{unlike:?}");
    let mut nan = values(6);
    nan[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(read(&[(down, &[2, 3], nan), (up, &[4, 2], values(8))]), LoraError::NotFinite { .. }));
    // PEFT's `lora_bias`, in both of its namings: named for what it is, not called damaged
    for name in ["a.lora_B.bias", "a.lora_B.one.bias"] {
        let biased = read(&[
            ("a.lora_A.weight", &[2, 3], values(6)),
            ("a.lora_B.weight", &[4, 2], values(8)),
            (name, &[4], values(4)),
        ]);
        assert_eq!(biased, LoraError::Flavour { module: "a".into(), flavour: "LoRA with a bias" });
        assert_eq!(biased.code(), ErrorCode::Unsupported);
    }
    assert!(matches!(read(&[("a.oft_blocks", &[1], values(1))]), LoraError::Flavour { flavour: "OFT", .. }));
}

/// Stacks of up to four of the linear cases with any weights.
fn stacks() -> impl Strategy<Value = Vec<(usize, i8)>> {
    proptest::collection::vec((0_usize..6, -8_i8..=8), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_same_stack_gives_the_same_bytes_and_none_gives_the_base(stack in stacks(), turn in 0_usize..5, threads in 1_usize..5) {
        let bytes = golden();
        let cases = cases(&bytes);
        let names = ["lora", "loha", "lokr", "lokr-whole", "dora-rows", "dora-columns"];
        let loras: Vec<Lora> = names.iter().map(|name| cases[*name].lora()).collect();
        let case = &cases["lora"];
        let stored: Vec<u8> = case.base_values().into_iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
        let apply = |stack: &[(usize, i8)], threads: usize| {
            let blocks = BlockWeights::default;
            let entry = |(at, weight): &(usize, i8)| Entry {
                digest: at.to_string(), weight: f64::from(*weight) / 8.0, text_encoder_weight: None, blocks: blocks(),
            };
            let stack = Stack(stack.iter().map(entry).collect()).canonical();
            let modules: Vec<(&Module, f64)> = stack.0.iter()
                .map(|entry| (&loras[entry.digest.parse::<usize>().unwrap()].modules[0], entry.strength("unet", "x")))
                .collect();
            merge((ElementType::F16, &case.shape, &stored), &modules, NonZeroUsize::new(threads).unwrap()).unwrap()
        };
        let mut turned = stack.clone();
        if !turned.is_empty() {
            let by = turn % turned.len();
            turned.rotate_left(by);
        }
        prop_assert_eq!(apply(&stack, 1), apply(&turned, threads), "order and threads change no byte");
        let idle: Vec<(usize, i8)> = stack.iter().map(|(at, _)| (*at, 0)).collect();
        prop_assert_eq!(apply(&idle, threads), stored.clone());
    }
}
