//! What these tests share: the runtime, numbers that look random, and how near two results must be.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use engine::{
    ElementType, Runtime, RuntimeOptions, Weights,
    weights::{Memory, Weight},
};

/// The runtime, or none where no library is named: then the test is skipped and says so.
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
