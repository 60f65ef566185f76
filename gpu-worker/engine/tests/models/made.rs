//! Weights and inputs whose every element follows from their names, as `tests/reference/make_denoisers.py` makes them.

use std::sync::Arc;

use engine::{
    ElementType, Tensor, Weights,
    forward::values::uniform,
    weights::{Memory, Weight},
};
use half::{bf16, f16};

/// The values of a weight.
pub(crate) fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    let inputs: usize = shape[1..].iter().product();
    let scaled = |value: f64| match shape.len() {
        1 if name.ends_with("weight") => 1.0 + 0.2 * value,
        1 => 0.2 * value,
        _ => value * (3.0 / inputs as f64).sqrt(),
    };
    uniform(name, count).into_iter().map(|value| scaled(value) as f32).collect()
}

/// An input of variance 1.
pub(crate) fn input(name: &str, shape: &[usize]) -> Tensor {
    Tensor::f32(shape, engine::forward::values::spread(name, shape.iter().product())).unwrap()
}

/// A weight stored in `dtype`.
pub(crate) fn weight(shape: &[usize], values: &[f32], dtype: ElementType) -> Weight {
    let bytes: Vec<u8> = match dtype {
        ElementType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        ElementType::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        ElementType::F64 => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
        other => panic!("no test stores {other}"),
    };
    let length = bytes.len();
    let memory = Memory::host(Arc::new(bytes), 0..length).unwrap();
    Weight { dtype, shape: shape.to_vec(), memory }
}

/// What is left of a value that was stored in `dtype`.
fn rounded(value: f32, dtype: ElementType) -> f32 {
    match dtype {
        ElementType::F16 => f16::from_f32(value).to_f32(),
        ElementType::Bf16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Weights of these names and shapes, their values rounded to `rounding` and stored in `dtype`.
pub(crate) fn weights(tensors: &[(String, Vec<usize>)], rounding: ElementType, dtype: ElementType) -> Weights {
    let mut weights = Weights::new();
    for (name, shape) in tensors {
        let values: Vec<f32> = values(name, shape).into_iter().map(|value| rounded(value, rounding)).collect();
        weights.insert(name.clone(), weight(shape, &values, dtype)).unwrap();
    }
    weights
}

/// The same as they are made: 32-bit floats.
pub(crate) fn plain(tensors: &[(String, Vec<usize>)]) -> Weights {
    weights(tensors, ElementType::F32, ElementType::F32)
}
