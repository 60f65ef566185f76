//! What these tests share: the runtime, numbers that look random, and how near two results must be.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use engine::{
    ElementType, Runtime, RuntimeOptions, Tensor, Weights,
    weights::{Memory, Weight},
};

/// The runtime, or none where no library is named: then the test is skipped and says so.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
pub(crate) fn runtime() -> Option<Runtime> {
    let Some(library) = library() else {
        println!("skipped: no ONNX Runtime library (MODELYARD_ONNXRUNTIME)");
        return None;
    };
    let mut options = RuntimeOptions::cpu(library);
    options.threads = 2;
    Some(Runtime::open(options).expect("the named library can be used"))
}

pub(crate) fn library() -> Option<PathBuf> {
    std::env::var_os("MODELYARD_ONNXRUNTIME").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `count` numbers of −1..1 that look random and are always the same.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 24) as f32) * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Weights of 32-bit floats.
pub(crate) fn weights(tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Weights {
    let mut weights = Weights::new();
    for (name, (shape, values)) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let memory = Memory::host(Arc::new(bytes), 0..values.len() * 4).expect("the memory is that long");
        weights.insert(name, Weight { dtype: ElementType::F32, shape: shape.clone(), memory }).expect("sizes agree");
    }
    weights
}

/// Every value lies within `bound` times the range of the expected values.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len(), "as many values");
    let range = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let (at, worst) = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (found - expected).abs())
        .enumerate()
        .fold((0, 0.0_f32), |worst, (at, off)| if off > worst.1 || off.is_nan() { (at, off) } else { worst });
    assert!(
        worst <= bound * range,
        "value {at} is off by {worst:e}: {} for {}; {bound:e} of {range} allowed",
        found[at],
        expected[at]
    );
}

/// `count` numbers of −1..1 from a name, the same as `tests/reference/make_vae.py` computes.
pub(crate) fn uniform(name: &str, count: usize) -> Vec<f32> {
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let number = |at: u64| {
        let z = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (1..=count as u64).map(number).collect()
}

/// An input that a name stands for.
pub(crate) fn given(name: &str, shape: &[usize]) -> Tensor {
    Tensor::f32(shape, uniform(name, shape.iter().product())).expect("as many numbers as the shape has")
}

/// The weights that names stand for, stored as `dtype`.
pub(crate) fn synthetic(tensors: &serde_json::Value, dtype: ElementType) -> Weights {
    let mut weights = Weights::new();
    for (name, shape) in tensors.as_object().expect("tensors by name") {
        let sides = shape.as_array().expect("a shape is a list").iter();
        let shape: Vec<usize> = sides.map(|side| side.as_u64().expect("a side is a number") as usize).collect();
        let bytes: Vec<u8> =
            synthetic_values(name, &shape).into_iter().flat_map(|value| stored(value, dtype)).collect();
        let length = bytes.len();
        let memory = Memory::host(Arc::new(bytes), 0..length).expect("the memory is that long");
        weights.insert(name, Weight { dtype, shape, memory }).expect("sizes agree");
    }
    weights
}

fn synthetic_values(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = uniform(name, shape.iter().product());
    let inputs: usize = shape.iter().skip(1).product();
    let (factor, offset) = if shape.len() > 1 {
        ((3.0 / inputs as f64).sqrt() as f32, 0.0)
    } else {
        (0.1, if name.ends_with("weight") { 1.0 } else { 0.0 })
    };
    values.into_iter().map(|value| value * factor + offset).collect()
}

fn stored(value: f32, dtype: ElementType) -> Vec<u8> {
    match dtype {
        ElementType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        ElementType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

/// A file of `tests/reference/golden/engine`.
pub(crate) fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/engine").join(name)
}
